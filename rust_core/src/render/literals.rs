//! How a statement for MySQL or MariaDB is written: literals, rows, values that differ by row, and the bounds that split.
//!
//! It knows no table (`render.rs` does). Invariants: names and keywords are compile-time constants; every text and blob
//! is a hex literal, so nothing is ever escaped and nothing can be injected; a statement is ASCII; rows keep their order;
//! no statement passes its byte bound.

use std::fmt;

/// What a statement may take by default: far below the smallest `max_allowed_packet` in use (16 MiB), and some 4,000 rows
/// of `messages`, long after a longer statement stops paying.
pub const STATEMENT_BYTES_MAX: usize = 1 << 20;

/// Ids in one list. MariaDB turns a list of `in_predicate_conversion_threshold` (1,000) values into a join with a
/// temporary table; MySQL gives up the range scan when its ranges pass `range_optimizer_max_mem_size` (8 MiB, 230 bytes an
/// id: 36,000).
pub const IDS_MAX: usize = 999;

/// Distinct values of a column that are worth a list of ids each; more are one value a row.
const GROUPS_MAX: usize = 8;

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// One statement, to be sent as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// ASCII, without a trailing semicolon.
    pub sql: Vec<u8>,
    /// Rows it holds; of a guarded update or a select, rows it asks for.
    pub rows: usize,
}

/// A batch that cannot be rendered. Nothing of it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenderError {
    /// One row alone is longer than a statement may be.
    RowTooLong {
        /// Its place in the caller's batch.
        row: usize,
        /// What a statement with this row alone takes.
        statement_bytes: usize,
    },
    /// Two changes of one message in one batch.
    RepeatedId {
        /// Of the message.
        id: u64,
    },
}

impl fmt::Display for RenderError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RowTooLong {
                row,
                statement_bytes,
            } => write!(
                formatter,
                "row {row} alone makes a statement of {statement_bytes} bytes"
            ),
            Self::RepeatedId { id } => write!(formatter, "id {id} is twice in one batch"),
        }
    }
}

impl std::error::Error for RenderError {}

/// A value. What differs by row is compared to find rows that share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cell<'a> {
    Null,
    Signed(i64),
    Unsigned(u64),
    Text(&'a str),
    Blob(&'a [u8]),
}

/// A stretch of a statement about a list of ids.
pub(super) enum Piece<'a> {
    /// Keywords and names.
    Fixed(&'static str),
    /// The ids, separated by commas.
    Ids,
    /// A value that is the same for all rows.
    Same(Cell<'a>),
    /// A value for each row, in the order of the ids; all of one kind, or `Null`.
    Each(Vec<Cell<'a>>),
}

/// The writer of literals; everything but constants goes through it.
#[derive(Default)]
pub(super) struct Literals {
    sql: Vec<u8>,
}

impl Literals {
    fn fixed(&mut self, words: &'static str) {
        self.sql.extend_from_slice(words.as_bytes());
    }

    fn unsigned(&mut self, mut value: u64) {
        // 20 digits hold the largest.
        let mut digits = [b'0'; 20];
        let mut start = digits.len();
        loop {
            start -= 1;
            digits[start] = DIGITS[usize::from((value % 10) as u8)];
            value /= 10;
            if value == 0 {
                break;
            }
        }
        self.sql.extend_from_slice(&digits[start..]);
    }

    fn hex(&mut self, bytes: &[u8]) {
        self.sql.reserve(2 * bytes.len() + 3);
        self.fixed("x'");
        for byte in bytes {
            let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
            self.sql.extend_from_slice(&[DIGITS[high], DIGITS[low]]);
        }
        self.fixed("'");
    }

    fn cell(&mut self, cell: Cell<'_>) {
        match cell {
            Cell::Null => self.fixed("NULL"),
            Cell::Signed(value) => {
                if value < 0 {
                    self.fixed("-");
                }
                self.unsigned(value.unsigned_abs());
            }
            Cell::Unsigned(value) => self.unsigned(value),
            // The introducer says which characters the bytes are; without it they would be a blob. Both servers read
            // x'' as the empty string.
            Cell::Text(text) => {
                self.fixed("_utf8mb4 ");
                self.hex(text.as_bytes());
            }
            Cell::Blob(bytes) => self.hex(bytes),
        }
    }

    fn list<'a>(&mut self, cells: impl IntoIterator<Item = Cell<'a>>) {
        for (place, cell) in cells.into_iter().enumerate() {
            if place > 0 {
                self.fixed(", ");
            }
            self.cell(cell);
        }
    }

    fn ids(&mut self, ids: &[u64]) {
        self.list(ids.iter().copied().map(Cell::Unsigned));
    }

    /// The value of the row at hand. A few distinct values: a list of ids for each but the most frequent one. More: the
    /// id's place by binary search, then the value at that place; `ids` must rise. Both cost about as much as one value
    /// for all, where a join with a table of values costs about twice that and leaves the order of locks to the optimizer.
    fn each(&mut self, ids: &[u64], cells: &[Cell<'_>]) {
        let Some(mut groups) = groups(cells) else {
            return self.by_place(ids, cells);
        };
        // The longest last; the sort is stable, so the same batch makes the same bytes.
        groups.sort_by_key(|(_, places)| places.len());
        let Some((common, _)) = groups.pop() else {
            return;
        };
        if groups.is_empty() {
            return self.cell(common);
        }
        self.fixed("CASE");
        for (cell, places) in groups {
            self.fixed(" WHEN id IN (");
            self.list(places.iter().map(|&place| Cell::Unsigned(ids[place])));
            self.fixed(") THEN ");
            self.cell(cell);
        }
        self.fixed(" ELSE ");
        self.cell(common);
        self.fixed(" END");
    }

    /// `ELT` gives strings, so integers are cast back.
    fn by_place(&mut self, ids: &[u64], cells: &[Cell<'_>]) {
        let cast = cells.iter().find_map(|cell| match cell {
            Cell::Signed(_) => Some(" AS SIGNED)"),
            Cell::Unsigned(_) => Some(" AS UNSIGNED)"),
            Cell::Null | Cell::Text(_) | Cell::Blob(_) => None,
        });
        if cast.is_some() {
            self.fixed("CAST(");
        }
        self.fixed("ELT(INTERVAL(id, ");
        self.ids(ids);
        self.fixed("), ");
        self.list(cells.iter().copied());
        self.fixed(")");
        if let Some(cast) = cast {
            self.fixed(cast);
        }
    }
}

/// The distinct values in order of appearance, each with the places where it stands; `None` when there are many.
fn groups<'a>(cells: &[Cell<'a>]) -> Option<Vec<(Cell<'a>, Vec<usize>)>> {
    let mut groups: Vec<(Cell<'a>, Vec<usize>)> = Vec::new();
    for (place, cell) in cells.iter().enumerate() {
        if let Some((_, places)) = groups.iter_mut().find(|(known, _)| known == cell) {
            places.push(place);
        } else if groups.len() < GROUPS_MAX {
            groups.push((*cell, vec![place]));
        } else {
            return None;
        }
    }
    Some(groups)
}

/// `head`, one parenthesis a row and `tail`, as many rows to a statement as its bound lets in. `rows` come with their
/// places in the caller's batch.
pub(super) fn insert<'a, Cells>(
    head: &str,
    rows: impl IntoIterator<Item = (usize, Cells)>,
    tail: &str,
    statement_bytes_max: usize,
) -> Result<Vec<Statement>, RenderError>
where
    Cells: IntoIterator<Item = Cell<'a>>,
{
    let mut statements = Vec::new();
    let mut open = Literals::default();
    let mut open_rows = 0;
    let mut row_sql = Literals::default();
    let mut close = |open: &mut Literals, rows: usize| {
        open.sql.extend_from_slice(tail.as_bytes());
        statements.push(Statement {
            sql: std::mem::take(&mut open.sql),
            rows,
        });
    };
    for (row, cells) in rows {
        row_sql.sql.clear();
        row_sql.fixed("(");
        row_sql.list(cells);
        row_sql.fixed(")");
        let statement_bytes = head.len() + row_sql.sql.len() + tail.len();
        if statement_bytes > statement_bytes_max {
            return Err(RenderError::RowTooLong {
                row,
                statement_bytes,
            });
        }
        if open_rows > 0
            && open.sql.len() + 1 + row_sql.sql.len() + tail.len() > statement_bytes_max
        {
            close(&mut open, open_rows);
            open_rows = 0;
        }
        let before = if open_rows == 0 { head } else { "," };
        open.sql.extend_from_slice(before.as_bytes());
        open.sql.extend_from_slice(&row_sql.sql);
        open_rows += 1;
    }
    if open_rows > 0 {
        close(&mut open, open_rows);
    }
    Ok(statements)
}

/// The statement about these ids, or several when one would pass a bound. `ids` rise; `places` are theirs in the caller's
/// batch.
pub(super) fn about(
    ids: &[u64],
    places: &[usize],
    pieces: &[Piece<'_>],
    statement_bytes_max: usize,
) -> Result<Vec<Statement>, RenderError> {
    let mut statements = Vec::new();
    // Stretches still to be rendered, the first on top. One that turns out too long is halved: rare, so it may cost a
    // second rendering.
    let mut stretches: Vec<(usize, usize)> = (0..ids.len())
        .step_by(IDS_MAX)
        .map(|start| (start, ids.len().min(start + IDS_MAX)))
        .collect();
    stretches.reverse();
    while let Some((start, end)) = stretches.pop() {
        let mut literals = Literals::default();
        for piece in pieces {
            match piece {
                Piece::Fixed(words) => literals.fixed(words),
                Piece::Ids => literals.ids(&ids[start..end]),
                Piece::Same(cell) => literals.cell(*cell),
                Piece::Each(cells) => literals.each(&ids[start..end], &cells[start..end]),
            }
        }
        let rows = end - start;
        if literals.sql.len() <= statement_bytes_max {
            statements.push(Statement {
                sql: literals.sql,
                rows,
            });
        } else if rows == 1 {
            return Err(RenderError::RowTooLong {
                row: places[start],
                statement_bytes: literals.sql.len(),
            });
        } else {
            let middle = start + rows / 2;
            stretches.push((middle, end));
            stretches.push((start, middle));
        }
    }
    Ok(statements)
}
