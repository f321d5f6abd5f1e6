//! Rendered statements say what went in: literals are read back by a parser of their own, updates are computed row by
//! row, and the bytes of a small batch of each kind are kept in `tests/golden/mysql_statements.sql`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

use _core::admit::{Accepted, Call, CallKind, Door, Limits, admit};
use _core::consent::Consent;
use _core::ids::{EPOCH_US, IdMint};
use _core::message::{Class, Held, Kind};
use _core::registry::{Campaign, CampaignState, OnUnknown, Registry, Tenant};
use _core::render::{
    IDS_MAX, Intent, RenderError, STATEMENT_BYTES_MAX, Statement, Value as Given, insert_bodies,
    insert_messages, insert_request_ids, insert_rows, select_closed_gates, select_intended,
    select_rows, update_intents, update_messages, update_quiet,
};
use _core::settle::{Row, Told};
use _core::shards::{Epochs, SHARDS};
use _core::state::{Reason, State};
use _core::view::history_entry;
use _core::wire::{Submission, SubmitMessageRequest};
use proptest::prelude::*;
use prost::Message as _;

const NOW_US: i64 = EPOCH_US + 86_400_000_000;

fn intent(epochs: Epochs) -> Intent {
    Intent {
        now_us: NOW_US,
        due_us: NOW_US + 15_000_000,
        epochs,
        provider: 3,
        recipe: 7,
    }
}

/// Every shard under an epoch of its own: the largest, and smaller ones.
fn epoch_each() -> Epochs {
    let mut epochs = Epochs::all(0);
    for shard in 0..SHARDS {
        epochs.own(shard, u64::MAX >> shard);
    }
    epochs
}

// ------------------------------------------------------------------------------------------- what the statements say

/// A literal, read back.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Null,
    Integer(i128),
    Text(String),
    Blob(Vec<u8>),
}

fn integer(value: impl Into<i128>) -> Value {
    Value::Integer(value.into())
}

fn text(value: &str) -> Value {
    Value::Text(value.to_owned())
}

fn blob(value: &[u8]) -> Value {
    Value::Blob(value.to_vec())
}

fn text_or_null(value: &str) -> Value {
    if value.is_empty() {
        Value::Null
    } else {
        text(value)
    }
}

/// Reads a statement from its start; panics where it does not say what was expected.
struct Parser<'a> {
    rest: &'a str,
    /// The row whose values are computed.
    id: u64,
}

impl<'a> Parser<'a> {
    fn new(statement: &'a Statement, id: u64) -> Self {
        let rest = std::str::from_utf8(&statement.sql).expect("ASCII");
        Self { rest, id }
    }

    fn takes(&mut self, words: &str) -> bool {
        let found = self.rest.strip_prefix(words);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    fn expect(&mut self, words: &str) {
        assert!(self.takes(words), "no {words:?} at {:.80}", self.rest);
    }

    fn skip_past(&mut self, words: &str) {
        let (_, rest) = self
            .rest
            .split_once(words)
            .unwrap_or_else(|| panic!("no {words:?} in {:.80}", self.rest));
        self.rest = rest;
    }

    fn hex(&mut self) -> Vec<u8> {
        self.expect("x'");
        let (digits, rest) = self.rest.split_once('\'').expect("an end");
        self.rest = rest;
        assert_eq!(digits.len() % 2, 0);
        let byte = |pair: &[u8]| {
            let pair = std::str::from_utf8(pair).expect("ASCII");
            u8::from_str_radix(pair, 16).expect("hex")
        };
        digits.as_bytes().chunks(2).map(byte).collect()
    }

    fn literal(&mut self) -> Value {
        if self.takes("NULL") {
            Value::Null
        } else if self.takes("_utf8mb4 ") {
            Value::Text(String::from_utf8(self.hex()).expect("UTF-8"))
        } else if self.rest.starts_with("x'") {
            Value::Blob(self.hex())
        } else {
            let digits = self
                .rest
                .find(|byte: char| !byte.is_ascii_digit() && byte != '-')
                .unwrap_or(self.rest.len());
            let (number, rest) = self.rest.split_at(digits);
            self.rest = rest;
            Value::Integer(number.parse().unwrap_or_else(|_| panic!("{number:?}")))
        }
    }

    fn list(&mut self) -> Vec<Value> {
        let mut values = vec![self.literal()];
        while self.takes(", ") {
            values.push(self.literal());
        }
        self.expect(")");
        values
    }

    fn ids(&mut self) -> Vec<u64> {
        let ids: Vec<u64> = self
            .list()
            .into_iter()
            .map(|value| match value {
                Value::Integer(id) => u64::try_from(id).expect("an id"),
                other => panic!("{other:?} is no id"),
            })
            .collect();
        assert!(
            ids.is_sorted_by(|a, b| a < b),
            "ids rise: INTERVAL and the order of locks need it"
        );
        ids
    }

    /// What an expression is for the row at hand.
    fn expression(&mut self) -> Value {
        if self.takes("CAST(") {
            let value = self.expression();
            if self.takes(" AS UNSIGNED)") {
                let Value::Integer(0..) = value else {
                    panic!("{value:?} has a sign, or is none");
                };
            } else {
                self.expect(" AS SIGNED)");
                let fits = matches!(value, Value::Integer(number) if i64::try_from(number).is_ok());
                assert!(fits, "{value:?} has no sign, or is none");
            }
            return value;
        }
        if self.takes("ELT(INTERVAL(id, ") {
            let ids = self.ids();
            self.expect(", ");
            let values = self.list();
            assert_eq!(values.len(), ids.len());
            // INTERVAL counts the ids that are not greater.
            let place = ids.iter().filter(|&&id| id <= self.id).count();
            return values[place - 1].clone();
        }
        if self.takes("CASE") {
            let mut chosen = None;
            while self.takes(" WHEN id IN (") {
                let hit = self.ids().contains(&self.id);
                self.expect(" THEN ");
                let value = self.literal();
                if hit {
                    assert!(chosen.is_none(), "an id stands in one list");
                    chosen = Some(value);
                }
            }
            self.expect(" ELSE ");
            let other = self.literal();
            self.expect(" END");
            return chosen.unwrap_or(other);
        }
        self.literal()
    }
}

/// Rows of the event log, positions from 1 on.
fn insert_events(
    rows: &[(u32, Vec<u8>)],
    at_us: i64,
    statement_bytes_max: usize,
) -> Result<Vec<Statement>, RenderError> {
    let given: Vec<Vec<Given>> = (1..)
        .zip(rows)
        .map(|(position, (tenant, events))| {
            vec![
                Given::Integer(i128::from(*tenant % 16)),
                Given::Integer(position),
                Given::Integer((*tenant).into()),
                Given::Integer(at_us.into()),
                Given::Blob(events.clone()),
            ]
        })
        .collect();
    let head = "INSERT INTO events (slot, position, tenant, at_us, events) VALUES ";
    insert_rows(head, &given, "", statement_bytes_max)
}

/// The rows that the statements of an insert hold, in order.
fn inserted(statements: &[Statement], head: &str) -> Vec<Vec<Value>> {
    inserted_with(statements, head, "")
}

fn inserted_with(statements: &[Statement], head: &str, tail: &str) -> Vec<Vec<Value>> {
    let mut all = Vec::new();
    for statement in statements {
        let mut parser = Parser::new(statement, 0);
        parser.expect(head);
        parser.expect(" VALUES ");
        let before = all.len();
        loop {
            parser.expect("(");
            all.push(parser.list());
            if !parser.takes(",") {
                break;
            }
        }
        assert_eq!(parser.rest, tail);
        assert_eq!(all.len() - before, statement.rows);
    }
    all
}

/// The ids that the statements list, in order.
fn listed(statements: &[Statement], before_ids: &str) -> Vec<u64> {
    statements
        .iter()
        .flat_map(|statement| {
            let mut parser = Parser::new(statement, 0);
            parser.skip_past(before_ids);
            let ids = parser.ids();
            assert_eq!(ids.len(), statement.rows);
            assert!(ids.len() <= IDS_MAX);
            ids
        })
        .collect()
}

/// The statement about this id.
fn about(statements: &[Statement], id: u64) -> &Statement {
    statements
        .iter()
        .find(|statement| listed(std::slice::from_ref(*statement), "WHERE id IN (").contains(&id))
        .expect("a statement with the id")
}

/// Nothing that came from outside can leave a literal: there is no byte to do it with.
fn check_bytes(statements: &[Statement], statement_bytes_max: usize) {
    for statement in statements {
        assert!(statement.sql.len() <= statement_bytes_max);
        assert!(statement.rows > 0);
        let odd = statement
            .sql
            .iter()
            .find(|byte| !byte.is_ascii_alphanumeric() && !b" _(),.=<>+-'`".contains(byte));
        assert_eq!(odd, None);
        assert!(!statement.sql.windows(2).any(|pair| pair == b"--"));
    }
}

// ------------------------------------------------------------------------------------------------------ what goes in

fn registry() -> Registry {
    let campaign = Campaign {
        key: 10,
        tenant: 1,
        brand: 7,
        id: "alerts".into(),
        state: CampaignState::Active,
        on_unknown: OnUnknown::ByClass,
        messaging_profile: String::new(),
        numbers: vec![12_025_550_100],
    };
    let tenant = Tenant {
        key: 1,
        active: true,
    };
    Registry::new(1, vec![tenant], vec![campaign], Vec::new())
}

/// Only admit makes an `Accepted`; tests change copies of this one.
static ACCEPTED: LazyLock<Accepted> = LazyLock::new(|| {
    let submission = Submission {
        campaign: "campaigns/alerts".into(),
        recipient: "+12025550123".into(),
        text: "Your canary is ready".into(),
        request_id: "r-1".into(),
        ..Submission::default()
    };
    let request = SubmitMessageRequest {
        submission: vec![submission.encode_to_vec().into()],
    };
    let call = Call {
        kind: CallKind::Unary,
        tenant: 1,
        request: request.encode_to_vec().into(),
    };
    let mut mint = IdMint::new(1, 0).expect("a node");
    let admission = admit(
        &[call],
        &registry(),
        &Consent::default(),
        &Limits::default(),
        &mut mint,
        NOW_US,
        Door::open(1000),
    );
    admission.accepted().first().expect("accepted").clone()
});

fn accepted() -> Accepted {
    ACCEPTED.clone()
}

fn held(id: u64) -> Held {
    Held {
        id,
        ..accepted().held
    }
}

fn row(id: u64) -> Row {
    Row {
        id,
        tenant: 1,
        campaign: 10,
        recipient: 12_025_550_123,
        class: Class::Transactional,
        segments: 1,
        state: State::Submitted,
        reason: Reason::Accepted as u8,
        code: String::new(),
        seq: 3,
        attempt: 1,
        generation: 1,
        counted: 1,
        flags: 0,
        due_us: NOW_US + 1_000_000,
        accept_us: NOW_US,
        expires_us: NOW_US + 60_000_000,
        updated_us: NOW_US,
        started_us: NOW_US,
        provider: 3,
        provider_id: format!("p-{id}"),
        carrier: 2,
        crashes: 0,
        opted_out: false,
    }
}

fn told(row: &Row) -> Told {
    Told {
        id: row.id,
        tenant: row.tenant,
        campaign: row.campaign,
        conflict: false,
        seq: row.seq,
        previous: State::Dispatching as u8,
        state: row.state as u8,
        reason: row.reason,
        at_us: row.updated_us,
        attempt: row.attempt,
        generation: row.generation,
        code: row.code.clone(),
    }
}

/// What breaks careless quoting, and anything else.
fn nasty() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => any::<String>(),
        2 => "['\"\\\\`;%\u{0}\n\r\u{1a}*/#-]{0,12}",
        1 => Just("' OR 1=1; -- \u{1F600}\u{0}\\".to_owned()),
        1 => Just(String::new()),
        1 => "[\u{1F600}-\u{1F64F}]{1,4}",
        // A row holds four of them, in hexadecimal: 33 kB at most, and the smallest bound is 40.
        1 => (1..1000_usize).prop_map(|repeats| "é'\\".repeat(repeats)),
    ]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..200)
}

/// Few distinct values, many, or one: each is written in another way.
fn ids() -> impl Strategy<Value = Vec<u64>> {
    prop_oneof![
        prop::collection::btree_set(1..=u64::MAX >> 1, 0..40),
        prop::collection::btree_set(1..60_u64, 1..40),
    ]
    .prop_map(|ids| ids.into_iter().collect::<Vec<_>>())
    .prop_shuffle()
}

fn bounds() -> impl Strategy<Value = usize> {
    prop_oneof![Just(STATEMENT_BYTES_MAX), 40_000..80_000_usize]
}

prop_compose! {
    fn any_accepted()(
        id in 1..=u64::MAX >> 1,
        tenant in 1..4_u32,
        numbers in any::<(u64, u64, u32, u32)>(),
        shorts in any::<(u16, u16, u16, u16, u8)>(),
        times in any::<(i64, i64, i64)>(),
        class in prop::sample::select(&Class::ALL[..]),
        kind in prop::sample::select(vec![Kind::Sms, Kind::Mms]),
        scheduled in any::<bool>(),
        request_id in prop::option::of(nasty()),
        (history, body, hash) in (bytes(), bytes(), any::<[u8; 16]>()),
    ) -> Accepted {
        let mut made = accepted();
        let content_hash_bytes = made.content_hash.len();
        made.held = Held {
            id,
            tenant,
            campaign: numbers.2,
            sender: numbers.0,
            recipient: numbers.1,
            class,
            kind,
            encoding: shorts.4,
            segments: shorts.0,
            seq: numbers.3,
            attempt: shorts.1,
            generation: shorts.2,
            counted: shorts.3,
            flags: numbers.2 ^ numbers.3,
            due_us: times.0,
            expires_us: times.1,
            body: Arc::from(body),
            ..made.held
        };
        made.accept_us = times.2;
        made.scheduled = scheduled;
        made.request_id = request_id.map(Arc::from);
        made.content_hash.copy_from_slice(&hash[..content_hash_bytes]);
        made.history = history;
        made
    }
}

prop_compose! {
    fn any_update(few: bool)(
        state in prop::sample::select(vec![State::Queued, State::Submitted, State::Unknown, State::Failed]),
        code in if few { Just("30007".to_owned()).boxed() } else { nasty().boxed() },
        provider_id in if few { Just(String::new()).boxed() } else { nasty().boxed() },
        (seq, before, flags) in if few { (1..4_u32, 1..3_u32, 0..2_u32).boxed() } else { any::<(u32, u32, u32)>().boxed() },
        (counted, generation, attempt) in any::<(u16, u16, u16)>(),
        (due_us, updated_us) in if few { (0..9_i64, Just(NOW_US)).boxed() } else { any::<(i64, i64)>().boxed() },
        (carrier, crashes, events) in (0..6_u8, any::<u8>(), 1..3_usize),
    ) -> (Row, u32, Vec<Told>) {
        let row = Row {
            state, code, provider_id, seq, flags, counted, generation, attempt, due_us, updated_us, carrier, crashes,
            ..row(1)
        };
        let events = vec![told(&row); events];
        (row, before, events)
    }
}

fn any_updates() -> impl Strategy<Value = Vec<(Row, u32, Vec<Told>)>> {
    (ids(), any::<bool>()).prop_flat_map(|(ids, few)| {
        let count = ids.len();
        prop::collection::vec(any_update(few), count).prop_map(move |mut updates| {
            for (update, id) in updates.iter_mut().zip(&ids) {
                update.0.id = *id;
            }
            updates
        })
    })
}

// -------------------------------------------------------------------------------------------------------- properties

fn sorted(ids: impl IntoIterator<Item = u64>) -> Vec<u64> {
    let mut ids: Vec<u64> = ids.into_iter().collect();
    ids.sort_unstable();
    ids
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn inserts_hold_every_row_once_in_order(
        mut rows in prop::collection::vec(any_accepted(), 0..30),
        bound in bounds(),
    ) {
        let messages = insert_messages(&rows, bound).expect("short rows");
        let bodies = insert_bodies(&rows, bound).expect("short rows");
        let requests = insert_request_ids(&rows, bound).expect("short rows");
        for statements in [&messages, &bodies, &requests] {
            check_bytes(statements, bound);
        }
        rows.sort_by_key(|row| row.held.id);
        let columns = "INSERT INTO messages (id, tenant, campaign, sender, recipient, class, kind, encoding, segments, \
            state, reason, seq, attempt, generation, counted, flags, due_us, accept_us, expires_us, updated_us, history)";
        let expected: Vec<Vec<Value>> = rows.iter().map(|row| {
            let held = &row.held;
            vec![
                integer(held.id), integer(held.tenant), integer(held.campaign), integer(held.sender),
                integer(held.recipient), integer(held.class as u8), integer(held.kind as u8), integer(held.encoding),
                integer(held.segments), integer(State::Queued as u8), integer(row.reason() as u8), integer(held.seq),
                integer(held.attempt), integer(held.generation), integer(held.counted), integer(held.flags),
                integer(held.due_us), integer(row.accept_us), integer(held.expires_us), integer(row.accept_us),
                blob(&row.history),
            ]
        }).collect();
        prop_assert_eq!(inserted(&messages, columns), expected);
        let expected: Vec<Vec<Value>> =
            rows.iter().map(|row| vec![integer(row.held.id), blob(&row.held.body)]).collect();
        prop_assert_eq!(inserted(&bodies, "INSERT INTO bodies (id, record)"), expected);
        rows.retain(|row| row.request_id.is_some());
        rows.sort_by_key(|row| (row.held.tenant, row.request_id.clone()));
        let columns = "INSERT INTO request_ids (tenant, request_id, id, content_hash)";
        let found = inserted_with(&requests, columns, " ON DUPLICATE KEY UPDATE tenant = tenant");
        let keys = |row: &Accepted| vec![integer(row.held.tenant), text(row.request_id.as_deref().expect("an id"))];
        prop_assert_eq!(
            found.iter().map(|row| row[..2].to_vec()).collect::<Vec<_>>(),
            rows.iter().map(keys).collect::<Vec<_>>()
        );
        for row in &rows {
            let mut whole = keys(row);
            whole.extend([integer(row.held.id), blob(&row.content_hash)]);
            prop_assert!(found.contains(&whole));
        }
    }

    #[test]
    fn events_keep_the_order_given(
        rows in prop::collection::vec((any::<u32>(), bytes()), 0..60), at_us in any::<i64>(), bound in 1000..4000_usize,
    ) {
        let statements = insert_events(&rows, at_us, bound).expect("short rows");
        check_bytes(&statements, bound);
        let expected: Vec<Vec<Value>> = rows.iter().zip(1..).map(|((tenant, events), position)| {
            vec![integer(*tenant % 16), integer(position), integer(*tenant), integer(at_us), blob(events)]
        }).collect();
        let columns = "INSERT INTO events (slot, position, tenant, at_us, events)";
        prop_assert_eq!(inserted(&statements, columns), expected);
    }

    #[test]
    fn rows_of_any_kind_are_read_back(
        rows in prop::collection::vec((any::<i64>(), any::<u64>(), nasty(), bytes(), any::<bool>()), 0..30),
        bound in 10_000..20_000_usize,
    ) {
        let given: Vec<Vec<Given>> = rows.iter().map(|(signed, unsigned, text, blob, null)| vec![
            Given::Integer((*signed).into()),
            Given::Integer((*unsigned).into()),
            if *null { Given::Null } else { Given::Text(text.clone()) },
            Given::Blob(blob.clone()),
        ]).collect();
        let statements = insert_rows("REPLACE INTO t VALUES ", &given, " AS tail", bound).expect("short rows");
        check_bytes(&statements, bound);
        let expected: Vec<Vec<Value>> = rows.iter().map(|(signed, unsigned, words, bytes, null)| vec![
            integer(*signed), integer(*unsigned), if *null { Value::Null } else { text(words) }, blob(bytes),
        ]).collect();
        prop_assert_eq!(inserted_with(&statements, "REPLACE INTO t", " AS tail"), expected);
    }

    #[test]
    fn an_update_gives_each_row_its_own_values(updates in any_updates(), bound in bounds()) {
        let statements = update_messages(&updates, bound).expect("short rows");
        check_bytes(&statements, bound);
        let order = listed(&statements, "WHERE id IN (");
        prop_assert_eq!(order, sorted(updates.iter().map(|(row, ..)| row.id)));
        for (row, before, events) in &updates {
            let history: Vec<u8> = events.iter().flat_map(|told| {
                let reason = Reason::from_number(i64::from(told.reason)).expect("a reason");
                history_entry(row.state, reason, told.attempt, told.generation, told.at_us, &told.code)
            }).collect();
            let mut parser = Parser::new(about(&statements, row.id), row.id);
            for (words, value) in [
                ("UPDATE messages FORCE INDEX (PRIMARY) SET state = ", integer(row.state as u8)),
                (", reason = ", integer(row.reason)),
                (", code = ", text(&row.code)),
                (", seq = ", integer(row.seq)),
                (", counted = ", integer(row.counted)),
                (", flags = ", integer(row.flags)),
                (", due_us = ", integer(row.due_us)),
                (", recipe = CASE WHEN generation = ", integer(row.generation)),
                (" THEN recipe ELSE 0 END, generation = ", integer(row.generation)),
                (", updated_us = ", integer(row.updated_us)),
                (", provider_id = ", text_or_null(&row.provider_id)),
                (", carrier = ", integer(row.carrier)),
                (", crashes = ", integer(row.crashes)),
                (", history = CONCAT(history, ", blob(&history)),
            ] {
                parser.expect(words);
                prop_assert_eq!(parser.expression(), value, "{}", words);
            }
            parser.expect(") WHERE id IN (");
            parser.ids();
            parser.expect(" AND seq = ");
            prop_assert_eq!(parser.expression(), integer(*before));
            prop_assert_eq!(parser.rest, "");
        }
    }

    #[test]
    fn a_quiet_update_gives_each_row_its_own_values(updates in any_updates(), bound in bounds()) {
        let rows: Vec<Row> = updates.into_iter().map(|(row, ..)| row).collect();
        let statements = update_quiet(&rows, bound).expect("short rows");
        check_bytes(&statements, bound);
        prop_assert_eq!(listed(&statements, "WHERE id IN ("), sorted(rows.iter().map(|row| row.id)));
        for row in &rows {
            let mut parser = Parser::new(about(&statements, row.id), row.id);
            for (words, value) in [
                ("UPDATE messages FORCE INDEX (PRIMARY) SET flags = ", integer(row.flags)),
                (", due_us = ", integer(row.due_us)),
                (", carrier = ", integer(row.carrier)),
                (", crashes = ", integer(row.crashes)),
                (", provider_id = ", text_or_null(&row.provider_id)),
            ] {
                parser.expect(words);
                prop_assert_eq!(parser.expression(), value, "{}", words);
            }
            parser.expect(" WHERE id IN (");
            parser.ids();
            parser.expect(" AND seq = ");
            prop_assert_eq!(parser.expression(), integer(row.seq));
            prop_assert_eq!(parser.rest, "");
        }
    }

    #[test]
    fn an_intent_is_guarded_by_what_its_row_was(
        ids in ids(),
        like in prop::collection::vec((0..u16::MAX, 1..4_u16, any::<u32>(), 0..3_u32, any::<u32>()), 40),
        shards in 1..=SHARDS, bound in 3000..9000_usize,
    ) {
        let intent = intent(epoch_each());
        let rows: Vec<Held> = ids.iter().zip(&like).map(|(&id, &(attempt, generation, seq, recipe, campaign))| {
            Held { attempt, generation, seq, recipe, campaign: campaign % shards, ..held(id) }
        }).collect();
        let statements = update_intents(&rows, &intent, bound).expect("short rows");
        check_bytes(&statements, bound);
        prop_assert_eq!(listed(&statements, "WHERE id IN ("), sorted(ids));
        for row in &rows {
            let mut parser = Parser::new(about(&statements, row.id), row.id);
            parser.expect("UPDATE messages FORCE INDEX (PRIMARY) SET state = 2, reason = 3, code = _utf8mb4 x'', ");
            parser.expect("seq = seq + 1, attempt = LEAST(attempt + 1, 65535), started_us = ");
            prop_assert_eq!(parser.literal(), integer(NOW_US));
            parser.expect(", epoch = ");
            prop_assert_eq!(parser.expression(), integer(u64::MAX >> row.campaign));
            parser.expect(", provider = 3, recipe = ");
            prop_assert_eq!(parser.expression(), integer(if row.recipe == 0 { 7 } else { row.recipe }));
            parser.expect(", due_us = ");
            prop_assert_eq!(parser.literal(), integer(intent.due_us));
            parser.expect(", updated_us = ");
            prop_assert_eq!(parser.literal(), integer(NOW_US));
            parser.expect(", history = CONCAT(history, ");
            let (attempt, generation) = (row.attempt + 1, row.generation);
            let history = history_entry(State::Dispatching, Reason::Attempt, attempt, generation, NOW_US, "");
            prop_assert_eq!(parser.expression(), blob(&history));
            parser.expect(") WHERE id IN (");
            parser.ids();
            parser.expect(" AND seq = ");
            prop_assert_eq!(parser.expression(), integer(row.seq));
            parser.expect(" AND state = 1 AND expires_us > ");
            prop_assert_eq!(parser.literal(), integer(NOW_US));
            parser.expect(" AND NOT EXISTS (SELECT 1 FROM opt_outs AS o WHERE o.tenant = messages.tenant AND ");
            parser.expect("o.recipient = messages.recipient) AND EXISTS (SELECT 1 FROM campaigns AS c WHERE ");
            parser.expect("c.`key` = messages.campaign AND c.state = 1) AND EXISTS (SELECT 1 FROM numbers AS n ");
            parser.expect("WHERE n.number = messages.sender AND n.campaign = messages.campaign)");
            prop_assert_eq!(parser.rest, " ORDER BY id");
        }
    }

    #[test]
    fn a_select_asks_for_each_id_once(
        ids in prop::collection::vec(prop_oneof![1..50_u64, 1..=u64::MAX >> 1], 0..300), bound in 1500..5000_usize,
    ) {
        let mut expected = sorted(ids.iter().copied());
        expected.dedup();
        let attempts: Vec<(u64, u64)> = expected.iter().map(|&id| (id, id % 64)).collect();
        for statements in [
            select_rows(&ids, bound),
            select_intended(&attempts, NOW_US, bound),
            select_closed_gates(&ids, NOW_US, bound),
        ] {
            let statements = statements.expect("short ids");
            check_bytes(&statements, bound);
            prop_assert_eq!(listed(&statements, "WHERE m.id IN ("), expected.clone());
        }
    }
}

// ------------------------------------------------------------------------------------------------------------ bounds

#[test]
fn a_batch_without_rows_makes_no_statement() {
    let none = Ok(Vec::new());
    assert_eq!(insert_messages(&[], 1), none);
    assert_eq!(insert_bodies(&[], 1), none);
    assert_eq!(insert_request_ids(&[], 1), none);
    assert_eq!(insert_events(&[], NOW_US, 1), none);
    assert_eq!(update_intents(&[], &intent(Epochs::all(1)), 1), none);
    assert_eq!(update_messages(&[], 1), none);
    assert_eq!(update_quiet(&[], 1), none);
    assert_eq!(select_rows(&[], 1), none);
}

#[test]
fn an_insert_fills_its_bound_to_the_last_byte() {
    let rows: Vec<(u32, Vec<u8>)> = (1..=4).map(|tenant| (tenant, vec![0; 100])).collect();
    let whole = insert_events(&rows, NOW_US, STATEMENT_BYTES_MAX).expect("short rows");
    let bytes_of_all = whole[0].sql.len();
    let counts = |bound| -> Vec<usize> {
        let statements = insert_events(&rows, NOW_US, bound).expect("short rows");
        statements.iter().map(|statement| statement.rows).collect()
    };
    assert_eq!(counts(bytes_of_all), [4]);
    assert_eq!(counts(bytes_of_all - 1), [3, 1]);
}

#[test]
fn a_row_that_alone_is_too_long_is_named_by_its_place() {
    let rows = vec![(1, vec![1; 10]), (2, vec![2; 500]), (3, vec![3; 10])];
    let whole = insert_events(&rows[1..2], NOW_US, STATEMENT_BYTES_MAX).expect("a short row");
    let statement_bytes = whole[0].sql.len();
    assert!(insert_events(&rows, NOW_US, statement_bytes).is_ok());
    assert_eq!(
        insert_events(&rows, NOW_US, statement_bytes - 1),
        Err(RenderError::RowTooLong {
            row: 1,
            statement_bytes
        })
    );

    // Sorting moves rows; the place stays the caller's.
    let mut long = row(2);
    long.provider_id = "p".repeat(5000);
    let update = |row: Row| (row.clone(), 2, vec![told(&row)]);
    let updates = [update(row(9)), update(row(7)), update(long), update(row(8))];
    let error = update_messages(&updates, 2000).expect_err("too long");
    assert!(
        matches!(error, RenderError::RowTooLong { row: 2, statement_bytes } if statement_bytes > 10_000),
        "{error}"
    );
    let mut bodies = vec![accepted(), accepted()];
    (bodies[0].held.id, bodies[1].held.id) = (9, 3);
    bodies[1].held.body = Arc::from(vec![0; 4000]);
    let error = insert_bodies(&bodies, 2000).expect_err("too long");
    assert!(
        matches!(error, RenderError::RowTooLong { row: 1, .. }),
        "{error}"
    );
    assert!(matches!(
        select_rows(&[5, 4], 100),
        Err(RenderError::RowTooLong { row: 1, .. })
    ));
}

#[test]
fn two_changes_of_one_message_in_a_batch_are_refused() {
    let twice = Err(RenderError::RepeatedId { id: 7 });
    assert_eq!(
        update_intents(
            &[held(7), held(8), held(7)],
            &intent(Epochs::all(1)),
            STATEMENT_BYTES_MAX
        ),
        twice
    );
    let update = |id| (row(id), 2, vec![told(&row(id))]);
    assert_eq!(
        update_messages(&[update(7), update(7)], STATEMENT_BYTES_MAX),
        twice
    );
    assert_eq!(update_quiet(&[row(7), row(7)], STATEMENT_BYTES_MAX), twice);
}

#[test]
fn a_long_list_of_ids_is_split_before_servers_stop_scanning_ranges() {
    let ids: Vec<u64> = (1..=2500).rev().collect();
    let statements = select_rows(&ids, STATEMENT_BYTES_MAX).expect("short ids");
    let rows: Vec<usize> = statements.iter().map(|statement| statement.rows).collect();
    assert_eq!(rows, [IDS_MAX, IDS_MAX, 2500 - 2 * IDS_MAX]);
    assert_eq!(listed(&statements, "WHERE m.id IN ("), sorted(ids));
}

// ------------------------------------------------------------------------------------------------------------ golden

fn golden_accepted() -> Vec<Accepted> {
    let mut rows = vec![accepted(); 3];
    for (row, id) in rows.iter_mut().zip([103, 101, 102]) {
        row.held.id = id;
        row.held.body = Arc::from(format!("record {id}").into_bytes());
        row.request_id = Some(Arc::from(format!("r'{id}\\")));
        row.content_hash.fill(0xab);
    }
    rows[1].held.body = Arc::from(Vec::new());
    rows[2].request_id = None;
    rows
}

/// What is asked of these attempts.
fn asked(rows: &[Held], intent: &Intent) -> Vec<(u64, u64)> {
    rows.iter()
        .map(|row| (row.id, intent.epochs.of_campaign(row.campaign)))
        .collect()
}

/// One small batch of each kind, in an order in which a store with the right tables can run them.
fn golden_statements() -> BTreeMap<&'static str, Vec<Statement>> {
    let bound = STATEMENT_BYTES_MAX;
    let intent = intent(Epochs::all(4));
    let of_shards = Intent {
        epochs: epoch_each(),
        ..intent.clone()
    };
    let in_shards = |shards: u32| -> Vec<Held> {
        (201..=209)
            .map(|id| Held {
                campaign: u32::try_from(id).expect("small") % shards,
                ..held(id)
            })
            .collect()
    };
    let accepted = golden_accepted();
    let ids: Vec<u64> = accepted.iter().map(|row| row.held.id).collect();
    let mut intents: Vec<Held> = accepted.iter().map(|row| row.held.clone()).collect();
    (intents[0].recipe, intents[0].attempt) = (5, 1);
    let mut rows: Vec<Row> = ids.iter().map(|&id| row(id)).collect();
    (rows[0].state, rows[0].code) = (State::Failed, "it's \u{1F600}".into());
    rows[0].provider_id.clear();
    let many: Vec<(Row, u32, Vec<Told>)> = (101..=110)
        .map(|id| {
            let mut row = row(id);
            row.seq = 4;
            row.due_us = NOW_US - i64::try_from(id).expect("small");
            row.state = State::Delivered;
            row.code = format!("{id}");
            (row.clone(), 3, vec![told(&row)])
        })
        .collect();
    let quiet: Vec<Row> = many
        .iter()
        .map(|(row, ..)| Row {
            flags: 2,
            ..row.clone()
        })
        .collect();
    let updates: Vec<(Row, u32, Vec<Told>)> = rows
        .iter()
        .map(|row| (row.clone(), 2, vec![told(row)]))
        .collect();
    let events = vec![(1, b"first".to_vec()), (1, Vec::new())];
    [
        ("01 insert_messages", insert_messages(&accepted, bound)),
        ("02 insert_bodies", insert_bodies(&accepted, bound)),
        (
            "03 insert_request_ids",
            insert_request_ids(&accepted, bound),
        ),
        ("04 insert_events", insert_events(&events, NOW_US, bound)),
        (
            "05 update_intents",
            update_intents(&intents, &intent, bound),
        ),
        (
            "06 select_intended",
            select_intended(&asked(&intents, &intent), NOW_US, bound),
        ),
        (
            "07 select_closed_gates",
            select_closed_gates(&ids, NOW_US, bound),
        ),
        ("08 select_rows", select_rows(&ids, bound)),
        ("09 update_messages", update_messages(&updates, bound)),
        (
            "10 update_messages, many values",
            update_messages(&many, bound),
        ),
        ("11 update_quiet", update_quiet(&quiet, bound)),
        (
            "12 update_intents, two shards",
            update_intents(&in_shards(2), &of_shards, bound),
        ),
        (
            "13 update_intents, many shards",
            update_intents(&in_shards(9), &of_shards, bound),
        ),
        (
            "14 select_intended, two shards",
            select_intended(&asked(&in_shards(2), &of_shards), NOW_US, bound),
        ),
        (
            "15 select_intended, many shards",
            select_intended(&asked(&in_shards(9), &of_shards), NOW_US, bound),
        ),
    ]
    .into_iter()
    .map(|(name, statements)| (name, statements.expect("short rows")))
    .collect()
}

#[test]
fn the_bytes_are_those_of_the_golden_file() {
    let mut rendered = String::new();
    for (name, statements) in golden_statements() {
        for statement in statements {
            let sql = String::from_utf8(statement.sql).expect("ASCII");
            writeln!(rendered, "-- {name}: {} rows\n{sql};", statement.rows).expect("memory");
        }
    }
    let path = format!(
        "{}/../tests/golden/mysql_statements.sql",
        env!("CARGO_MANIFEST_DIR")
    );
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        golden == rendered,
        "tests/golden/mysql_statements.sql should be:\n{rendered}"
    );
}
