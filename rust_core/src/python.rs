//! The seam: the core's batches as Python sees them. The only file that names PyO3.
//!
//! Nothing is decided here. Rows cross as tuples in the column order of `engine/stores/sql.py`; batches are opaque. Work of
//! more than some 10 µs runs with the interpreter detached. Objects that several threads may touch hold a mutex that is
//! never held while Python runs.

// Signatures are dictated by Python's side, and PyO3 takes arguments by value.
#![allow(
    missing_docs,
    clippy::needless_pass_by_value,
    clippy::too_many_arguments,
    clippy::type_complexity
)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use prost::Message as _;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};

use crate::admit::{
    self as admitting, Call, CallKind, Existing, Limits, Refusal, Reply, held_from_row,
};
use crate::budget::{self, Ask, Shared, SharedRow, Terms};
use crate::message::{Carrier, Class, Held, Micros, flags};
use crate::outcome::{Outcome, Phase};
use crate::owned::{self, LedgerRow, Owned};
use crate::quota::Refusal as RateRefusal;
use crate::registry as picture;
use crate::render;
use crate::schedule as scheduling;
use crate::settle::{self as settling, Changes, Fact, Fate, Gate, Policy, Receipt, Told};
use crate::shards::{Epochs, SHARDS, ShardSet, shard_of};
use crate::spill::{Away, Stream, StreamKind};
use crate::state::State;
use crate::telnyx::{self, InboundText, Recipe, SendConfig, WebhookVerdict};
use crate::verdict::Verdict;
use crate::view::{self, StoredRow};
use crate::wire::{EventKind, Submission};
use crate::{consent, edge, events, ids, phone, text, webhook_http};

fn bad(reason: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(reason.to_string())
}

/// A panic while the lock was held is a bug that already surfaced; the data is still whole batches.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A column of a row, with the column's place in the error.
fn column<'py, T>(row: &Bound<'py, PyTuple>, place: usize) -> PyResult<T>
where
    T: for<'a> FromPyObject<'a, 'py, Error = PyErr>,
{
    row.get_item(place)?
        .extract()
        .map_err(|error: PyErr| bad(format!("column {place}: {error}")))
}

fn blob(py: Python<'_>, bytes: &[u8]) -> Py<PyBytes> {
    PyBytes::new(py, bytes).unbind()
}

fn blobs(py: Python<'_>, rows: Vec<(u32, Vec<u8>)>) -> Vec<(u32, Py<PyBytes>)> {
    rows.into_iter()
        .map(|(tenant, bytes)| (tenant, blob(py, &bytes)))
        .collect()
}

// -------------------------------------------------------------------------------------------- statements for MySQL

type Rendered = Vec<render::Statement>;
/// A statement and the rows it holds or asks for.
type Statements = Vec<(String, usize)>;

fn as_texts(statements: Result<Rendered, render::RenderError>) -> PyResult<Statements> {
    let statements = statements.map_err(bad)?;
    statements
        .into_iter()
        .map(|statement| {
            let text = String::from_utf8(statement.sql).map_err(bad)?;
            Ok((text, statement.rows))
        })
        .collect()
}

fn value(cell: &Bound<'_, PyAny>) -> PyResult<render::Value> {
    if cell.is_none() {
        Ok(render::Value::Null)
    } else if let Ok(bytes) = cell.cast::<PyBytes>() {
        Ok(render::Value::Blob(bytes.as_bytes().to_vec()))
    } else if let Ok(text) = cell.extract::<String>() {
        Ok(render::Value::Text(text))
    } else if let Ok(signed) = cell.extract::<i64>() {
        Ok(render::Value::Integer(signed.into()))
    } else {
        Ok(render::Value::Integer(cell.extract::<u64>()?.into()))
    }
}

#[pyfunction]
fn mysql_rows(
    py: Python<'_>,
    head: &str,
    rows: Vec<Bound<'_, PyTuple>>,
    tail: &str,
    bytes_max: usize,
) -> PyResult<Statements> {
    let rows = rows
        .iter()
        .map(|row| row.iter().map(|cell| value(&cell)).collect())
        .collect::<PyResult<Vec<Vec<render::Value>>>>()?;
    as_texts(py.detach(|| render::insert_rows(head, &rows, tail, bytes_max)))
}

#[pyfunction]
fn mysql_select_rows(py: Python<'_>, ids: Vec<u64>, bytes_max: usize) -> PyResult<Statements> {
    as_texts(py.detach(|| render::select_rows(&ids, bytes_max)))
}

#[pyfunction]
fn mysql_select_intended(
    py: Python<'_>,
    ids: Vec<u64>,
    started_us: Micros,
    epoch: u64,
    bytes_max: usize,
) -> PyResult<Statements> {
    // A node owns every shard or none, all of them under one epoch.
    let attempts: Vec<(u64, u64)> = ids.into_iter().map(|id| (id, epoch)).collect();
    as_texts(py.detach(|| render::select_intended(&attempts, started_us, bytes_max)))
}

#[pyfunction]
fn mysql_select_closed_gates(
    py: Python<'_>,
    ids: Vec<u64>,
    now_us: Micros,
    bytes_max: usize,
) -> PyResult<Statements> {
    as_texts(py.detach(|| render::select_closed_gates(&ids, now_us, bytes_max)))
}

#[pyfunction]
fn opt_out_slot(tenant: u32, recipient: u64) -> u16 {
    consent::slot(tenant, recipient)
}

// ---------------------------------------------------------------------------------------------------------- registry

#[pyclass(frozen, module = "engine._core")]
struct Registry {
    inner: Arc<picture::Registry>,
}

type TenantRow = (u32, bool);
type CampaignRow = (u32, u32, u32, String, u8, u8, String, Vec<u64>);
type QuotaRow = (u32, u8, u64, u8, u8, u64, u64, u64, u8, u8);

fn quota(row: QuotaRow) -> PyResult<picture::Quota> {
    let (
        key,
        scope,
        subject,
        carrier,
        unit,
        amount,
        window_us,
        burst,
        reserved_percent,
        reserved_class,
    ) = row;
    Ok(picture::Quota {
        key,
        scope: match scope {
            1 => picture::Scope::Number,
            2 => picture::Scope::Campaign,
            3 => picture::Scope::CampaignCarrier,
            4 => picture::Scope::BrandCarrierDay,
            5 => picture::Scope::Provider,
            6 => picture::Scope::Tenant,
            _ => return Err(bad(format!("quota {key}: unknown scope {scope}"))),
        },
        subject,
        carrier: Carrier::from_number(i64::from(carrier)),
        unit: if unit == 2 {
            picture::Unit::Messages
        } else {
            picture::Unit::Segments
        },
        amount,
        window_us,
        burst,
        reserved_percent,
        reserved_class: Class::from_number(i64::from(reserved_class)).unwrap_or(Class::Critical),
    })
}

#[pymethods]
impl Registry {
    #[new]
    fn new(
        version: u64,
        tenants: Vec<TenantRow>,
        campaigns: Vec<CampaignRow>,
        quotas: Vec<QuotaRow>,
    ) -> PyResult<Self> {
        let tenants = tenants
            .into_iter()
            .map(|(key, active)| picture::Tenant { key, active })
            .collect();
        let campaigns = campaigns
            .into_iter()
            .map(
                |(key, tenant, brand, id, state, on_unknown, messaging_profile, numbers)| {
                    picture::Campaign {
                        key,
                        tenant,
                        brand,
                        id,
                        state: match state {
                            1 => picture::CampaignState::Active,
                            2 => picture::CampaignState::Paused,
                            _ => picture::CampaignState::Stopped,
                        },
                        on_unknown: match on_unknown {
                            1 => picture::OnUnknown::Resend,
                            2 => picture::OnUnknown::Unresolved,
                            _ => picture::OnUnknown::ByClass,
                        },
                        messaging_profile,
                        numbers,
                    }
                },
            )
            .collect();
        let quotas = quotas.into_iter().map(quota).collect::<PyResult<_>>()?;
        Ok(Self {
            inner: Arc::new(picture::Registry::new(version, tenants, campaigns, quotas)),
        })
    }

    #[getter]
    fn version(&self) -> u64 {
        self.inner.version
    }

    fn lease_budgets(
        &self,
        asks: Vec<(u32, Option<SharedRow>, u64, u64)>,
        now_us: Micros,
    ) -> Vec<Option<(u64, Micros, u64, SharedRow)>> {
        let quotas = self.inner.quotas();
        let mut known = Vec::with_capacity(asks.len());
        let mut leased = Vec::with_capacity(asks.len());
        for &(key, row, tokens, least) in &asks {
            let quota = quotas.iter().find(|quota| quota.key == key);
            known.push(quota.map(|quota| Terms::of(quota).block_us()));
            leased.extend(quota.map(|quota| {
                let terms = Terms::of(quota);
                Ask {
                    shared: match row {
                        Some(row) => Shared::restored(terms, row, now_us),
                        None => Shared::new(terms, now_us),
                    },
                    by_all: quota.scope == picture::Scope::Provider,
                    tokens,
                    least,
                }
            }));
        }
        let answers = budget::lease_together(&mut leased, now_us);
        let mut answers = answers.into_iter().zip(leased);
        let answer = |block_us: Option<u64>| {
            let block_us = block_us?;
            let (answer, ask) = answers.next()?;
            let (tokens, again_us) = match answer {
                Ok(tokens) => (tokens, now_us),
                Err(RateRefusal::Until(at_us)) => (0, at_us),
                Err(RateRefusal::Never) => (0, Micros::MAX),
            };
            Some((tokens, again_us, block_us, ask.shared.row()))
        };
        known.into_iter().map(answer).collect()
    }

    fn campaign_id(&self, key: u32) -> Option<String> {
        self.inner.campaign(key).map(|campaign| campaign.id.clone())
    }

    fn campaign_key(&self, tenant: u32, campaign_id: &str) -> Option<u32> {
        self.inner
            .campaign_of(tenant, campaign_id)
            .map(|campaign| campaign.key)
    }

    fn tenant_of_number(&self, number: u64) -> Option<u32> {
        self.inner
            .campaign_of_number(number)
            .map(|campaign| campaign.tenant)
    }
}

#[pyclass(frozen, module = "engine._core")]
struct Consent {
    inner: Mutex<crate::consent::Consent>,
}

#[pymethods]
impl Consent {
    #[new]
    fn new(pairs: Vec<(u32, u64)>) -> Self {
        let mut inner = crate::consent::Consent::default();
        for (tenant, recipient) in pairs {
            inner.insert(tenant, recipient);
        }
        Self {
            inner: Mutex::new(inner),
        }
    }

    fn insert(&self, tenant: u32, recipient: u64) {
        lock(&self.inner).insert(tenant, recipient);
    }

    fn remove(&self, tenant: u32, recipient: u64) {
        lock(&self.inner).remove(tenant, recipient);
    }

    fn __len__(&self) -> usize {
        lock(&self.inner).len()
    }
}

// ------------------------------------------------------------------------------------------------------------- admit

#[pyclass(frozen, module = "engine._core")]
struct Admitter {
    limits: Limits,
    mint: Arc<Mutex<ids::IdMint>>,
}

fn count(value: i64) -> PyResult<usize> {
    usize::try_from(value).map_err(bad)
}

fn kind_of_call(kind: u8) -> PyResult<CallKind> {
    match kind {
        1 => Ok(CallKind::Unary),
        2 => Ok(CallKind::Batch),
        3 => Ok(CallKind::Stream),
        _ => Err(bad(format!("unknown kind of call {kind}"))),
    }
}

#[pyfunction]
fn urgency(py: Python<'_>, kind: u8, request: &Bound<'_, PyBytes>) -> PyResult<u8> {
    let kind = kind_of_call(kind)?;
    let request = Bytes::copy_from_slice(request.as_bytes());
    Ok(py.detach(|| admitting::urgency(kind, &request)))
}

#[pymethods]
impl Admitter {
    #[new]
    fn new(limits: HashMap<String, i64>, node: u16, last_id: u64) -> PyResult<Self> {
        let mut made = Limits::default();
        for (name, value) in limits {
            match name.as_str() {
                "batch_messages_max" => made.batch_messages_max = count(value)?,
                "submission_bytes_max" => made.submission_bytes_max = count(value)?,
                "segments_max" => made.segments_max = u16::try_from(value).map_err(bad)?,
                "media_urls_max" => made.media_urls_max = count(value)?,
                "schedule_ahead_max_us" => made.schedule_ahead_max_us = value,
                "validity_max_us" => made.validity_max_us = value,
                "retry_delay_us" => made.retry_delay_us = value,
                _ => return Err(bad(format!("unknown limit {name}"))),
            }
        }
        let mint = ids::IdMint::new(node, last_id)
            .ok_or_else(|| bad(format!("node {node} is out of range")))?;
        Ok(Self {
            limits: made,
            mint: Arc::new(Mutex::new(mint)),
        })
    }

    fn mint(&self, now_us: Micros) -> u64 {
        lock(&self.mint).mint(now_us)
    }

    #[pyo3(signature = (
        calls, registry, consent, now_us, room, floor=0, overloaded_retry_us=0, ahead=None
    ))]
    #[expect(
        clippy::too_many_arguments,
        reason = "what the door depends on, each kept by another"
    )]
    fn admit(
        &self,
        py: Python<'_>,
        calls: Vec<(u8, u32, Bound<'_, PyBytes>)>,
        registry: &Registry,
        consent: &Consent,
        now_us: Micros,
        room: usize,
        floor: u8,
        overloaded_retry_us: Micros,
        ahead: Option<&Scheduler>,
    ) -> PyResult<Admission> {
        let calls = calls
            .into_iter()
            .map(|(kind, tenant, request)| {
                Ok(Call {
                    kind: kind_of_call(kind)?,
                    tenant,
                    request: Bytes::copy_from_slice(request.as_bytes()),
                })
            })
            .collect::<PyResult<Vec<_>>>()?;
        let registry = Arc::clone(&registry.inner);
        let admission = py.detach(|| {
            let consent = lock(&consent.inner);
            let mut mint = lock(&self.mint);
            let waiting = ahead.map(|scheduler| lock(&scheduler.inner));
            admitting::admit(
                &calls,
                &registry,
                &consent,
                &self.limits,
                &mut mint,
                now_us,
                admitting::Door {
                    room,
                    floor,
                    overloaded_retry_us,
                    ahead: waiting.as_deref().map_or(&(), |waiting| &waiting.schedule),
                },
            )
        });
        let total = admission.items_total();
        Ok(Admission {
            inner: Mutex::new(admission),
            mint: Arc::clone(&self.mint),
            total,
        })
    }
}

#[pyclass(frozen, module = "engine._core")]
struct Admission {
    inner: Mutex<admitting::Admission>,
    mint: Arc<Mutex<ids::IdMint>>,
    total: usize,
}

type ReplyRow = (u8, Py<PyBytes>, String, String, i64);

fn refusal_row(py: Python<'_>, refusal: &Refusal) -> ReplyRow {
    (
        refusal.verdict as u8,
        blob(py, b""),
        refusal.field.to_string(),
        refusal.detail.to_string(),
        refusal.retry_delay_us,
    )
}

fn hash_of(bytes: &[u8]) -> PyResult<[u8; admitting::CONTENT_HASH_BYTES]> {
    bytes
        .try_into()
        .map_err(|_| bad("a content hash has another length"))
}

#[pymethods]
impl Admission {
    #[getter]
    fn accepted(&self) -> usize {
        lock(&self.inner).accepted().len()
    }

    #[getter]
    fn total(&self) -> usize {
        self.total
    }

    #[getter]
    fn ordered(&self) -> bool {
        !lock(&self.inner).ordered().is_empty()
    }

    fn ordered_ids(&self) -> Vec<(u32, u64, u64)> {
        let ordered = lock(&self.inner).ordered();
        ordered
            .into_iter()
            .map(|(tenant, (lowest, highest))| (tenant, lowest, highest))
            .collect()
    }

    fn renumber(&self, py: Python<'_>, above: u64, now_us: Micros) {
        py.detach(|| lock(&self.inner).renumber(&mut lock(&self.mint), above, now_us));
    }

    fn by_shard(&self) -> Vec<(u32, Vec<u64>)> {
        let mut shards: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for accepted in lock(&self.inner).accepted() {
            let ids = shards.entry(shard_of(accepted.held.campaign)).or_default();
            ids.push(accepted.held.id);
        }
        shards.into_iter().collect()
    }

    #[getter]
    fn needs_store(&self) -> bool {
        !lock(&self.inner).lookups().is_empty() || !lock(&self.inner).accepted().is_empty()
    }

    fn refused_lookups(&self) -> bool {
        let inner = lock(&self.inner);
        let keyed = inner
            .accepted()
            .iter()
            .filter(|accepted| accepted.request_id.is_some())
            .count();
        inner.lookups().len() > keyed
    }

    fn lookups(&self) -> Vec<(u32, String)> {
        lock(&self.inner)
            .lookups()
            .into_iter()
            .map(|(tenant, id)| (tenant, id.to_owned()))
            .collect()
    }

    fn request_rows(&self, py: Python<'_>) -> Vec<(u32, String, u64, Py<PyBytes>)> {
        let inner = lock(&self.inner);
        inner
            .accepted()
            .iter()
            .filter_map(|accepted| {
                let id = accepted.request_id.as_ref()?.to_string();
                Some((
                    accepted.held.tenant,
                    id,
                    accepted.held.id,
                    blob(py, &accepted.content_hash),
                ))
            })
            .collect()
    }

    fn message_rows<'py>(
        &self,
        py: Python<'py>,
        start: usize,
        end: usize,
    ) -> PyResult<Bound<'py, PyList>> {
        let inner = lock(&self.inner);
        let rows = PyList::empty(py);
        for accepted in inner.accepted().get(start..end).unwrap_or_default() {
            let held = &accepted.held;
            // Twenty-one columns: longer than a tuple that converts by itself.
            let row: [Bound<'py, PyAny>; 21] = [
                held.id.into_pyobject(py)?.into_any(),
                held.tenant.into_pyobject(py)?.into_any(),
                held.campaign.into_pyobject(py)?.into_any(),
                held.sender.into_pyobject(py)?.into_any(),
                held.recipient.into_pyobject(py)?.into_any(),
                (held.class as u8).into_pyobject(py)?.into_any(),
                (held.kind as u8).into_pyobject(py)?.into_any(),
                held.encoding.into_pyobject(py)?.into_any(),
                held.segments.into_pyobject(py)?.into_any(),
                (State::Queued as u8).into_pyobject(py)?.into_any(),
                (accepted.reason() as u8).into_pyobject(py)?.into_any(),
                held.seq.into_pyobject(py)?.into_any(),
                held.attempt.into_pyobject(py)?.into_any(),
                held.generation.into_pyobject(py)?.into_any(),
                held.counted.into_pyobject(py)?.into_any(),
                held.flags.into_pyobject(py)?.into_any(),
                held.due_us.into_pyobject(py)?.into_any(),
                accepted.accept_us.into_pyobject(py)?.into_any(),
                held.expires_us.into_pyobject(py)?.into_any(),
                accepted.accept_us.into_pyobject(py)?.into_any(),
                PyBytes::new(py, &accepted.history).into_any(),
            ];
            rows.append(PyTuple::new(py, row)?)?;
        }
        Ok(rows)
    }

    fn body_rows(&self, py: Python<'_>, start: usize, end: usize) -> Vec<(u64, Py<PyBytes>)> {
        let inner = lock(&self.inner);
        let accepted = inner.accepted().get(start..end).unwrap_or_default();
        accepted
            .iter()
            .map(|accepted| (accepted.held.id, blob(py, &accepted.held.body)))
            .collect()
    }

    fn mysql_messages(
        &self,
        py: Python<'_>,
        start: usize,
        end: usize,
        bytes_max: usize,
    ) -> PyResult<Statements> {
        self.rendered(py, start..end, bytes_max, render::insert_messages)
    }

    fn mysql_bodies(
        &self,
        py: Python<'_>,
        start: usize,
        end: usize,
        bytes_max: usize,
    ) -> PyResult<Statements> {
        self.rendered(py, start..end, bytes_max, render::insert_bodies)
    }

    fn mysql_request_ids(&self, py: Python<'_>, bytes_max: usize) -> PyResult<Statements> {
        self.rendered(py, 0..usize::MAX, bytes_max, render::insert_request_ids)
    }

    fn event_rows(&self, py: Python<'_>) -> Vec<(u32, Py<PyBytes>)> {
        let rows = py.detach(|| lock(&self.inner).first_events());
        blobs(py, rows)
    }

    fn resolve(&self, rows: Vec<(u32, String, u64, Vec<u8>, u16, u8)>) -> PyResult<()> {
        let existing = rows
            .into_iter()
            .map(|(tenant, request_id, id, hash, segments, encoding)| {
                Ok(Existing {
                    tenant,
                    request_id,
                    id,
                    content_hash: hash_of(&hash)?,
                    segments,
                    encoding,
                })
            })
            .collect::<PyResult<Vec<_>>>()?;
        lock(&self.inner).resolve(&existing);
        Ok(())
    }

    fn refuse(&self, position: usize, verdict: u8, detail: &str) -> PyResult<()> {
        let mut inner = lock(&self.inner);
        if position >= inner.accepted().len() {
            return Err(bad("no accepted message at this position"));
        }
        inner.refuse_with(&[position], known_verdict(verdict)?, detail, 0);
        Ok(())
    }

    fn take_back(&self) {
        lock(&self.inner).take_back();
    }

    fn refuse_all(&self, verdict: u8, detail: &str, retry_delay_us: i64) -> PyResult<()> {
        lock(&self.inner).refuse_all_open(known_verdict(verdict)?, detail, retry_delay_us);
        Ok(())
    }

    fn replies(&self, py: Python<'_>) -> Vec<ReplyRow> {
        let replies = py.detach(|| lock(&self.inner).replies());
        replies
            .iter()
            .map(|reply| match reply {
                Reply::Ok(bytes) => (
                    Verdict::Accepted as u8,
                    blob(py, bytes),
                    String::new(),
                    String::new(),
                    0,
                ),
                Reply::Refused(refusal) => refusal_row(py, refusal),
            })
            .collect()
    }

    fn ids(&self) -> Vec<u64> {
        lock(&self.inner)
            .accepted()
            .iter()
            .map(|accepted| accepted.held.id)
            .collect()
    }
}

impl Admission {
    fn rendered(
        &self,
        py: Python<'_>,
        places: std::ops::Range<usize>,
        bytes_max: usize,
        render: fn(&[admitting::Accepted], usize) -> Result<Rendered, render::RenderError>,
    ) -> PyResult<Statements> {
        let statements = py.detach(|| {
            let inner = lock(&self.inner);
            let rows = inner.accepted();
            let end = places.end.min(rows.len());
            render(rows.get(places.start..end).unwrap_or_default(), bytes_max)
        });
        as_texts(statements)
    }
}

fn known_verdict(number: u8) -> PyResult<Verdict> {
    Verdict::from_number(i64::from(number)).ok_or_else(|| bad(format!("unknown verdict {number}")))
}

#[pyfunction]
fn admit_counts(admission: &Admission) -> Vec<(u32, u8, u64)> {
    let inner = lock(&admission.inner);
    inner
        .counts()
        .into_iter()
        .map(|(campaign, verdict, count)| (campaign, verdict as u8, count))
        .collect()
}

// ------------------------------------------------------------------------------------------------------------ settle

#[pyclass(frozen, module = "engine._core")]
struct Facts {
    inner: Vec<(u64, Fact)>,
}

fn each(ids: Vec<u64>, fact: &Fact) -> Facts {
    Facts {
        inner: ids.into_iter().map(|id| (id, fact.clone())).collect(),
    }
}

#[pymethods]
impl Facts {
    fn __len__(&self) -> usize {
        self.inner.len()
    }

    fn ids(&self) -> Vec<u64> {
        let mut ids: Vec<u64> = self.inner.iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Each half on its own; facts of one message keep their order.
    fn halves(&self) -> (Self, Self) {
        let (first, second) = self.inner.split_at(self.inner.len() / 2);
        let of = |facts: &[(u64, Fact)]| Self {
            inner: facts.to_vec(),
        };
        (of(first), of(second))
    }

    fn provider_ids(&self) -> Vec<(u64, String)> {
        self.inner
            .iter()
            .filter_map(|(id, fact)| match fact {
                Fact::Outcome(_, Outcome::Taken { provider_id, .. }) => {
                    Some((*id, provider_id.clone()))
                }
                _ => None,
            })
            .collect()
    }

    fn outcome_counts(&self) -> Vec<(&'static str, u64)> {
        let mut counts: HashMap<&'static str, u64> = HashMap::new();
        for (_, fact) in &self.inner {
            if let Fact::Outcome(_, outcome) = fact {
                *counts.entry(outcome.name()).or_default() += 1;
            }
        }
        counts.into_iter().collect()
    }

    #[staticmethod]
    fn outcomes(
        py: Python<'_>,
        exchanges: Vec<(PyRef<'_, Request>, u8, u16, Option<i64>, Bound<'_, PyBytes>)>,
    ) -> Self {
        let taken: Vec<(u64, u16, u16, u8, u16, Option<i64>, Vec<u8>)> = exchanges
            .into_iter()
            .map(|(request, phase, status, retry_after_us, body)| {
                let tries = request.tries_of_generation;
                (
                    request.id,
                    request.attempt,
                    tries,
                    phase,
                    status,
                    retry_after_us,
                    body.as_bytes().to_vec(),
                )
            })
            .collect();
        let inner = py.detach(|| {
            taken
                .into_iter()
                .map(
                    |(id, attempt, tries, phase, status, retry_after_us, body)| {
                        let phase = Phase::from_number(i64::from(phase));
                        let outcome = telnyx::classify(phase, status, retry_after_us, &body, tries);
                        (id, Fact::Outcome(attempt, outcome))
                    },
                )
                .collect()
        });
        Self { inner }
    }

    #[staticmethod]
    fn lookups(exchanges: Vec<(u64, u16, u8, u16, Bound<'_, PyBytes>)>) -> Self {
        let inner = exchanges
            .into_iter()
            .filter_map(|(id, generation, phase, status, body)| {
                let phase = Phase::from_number(i64::from(phase));
                let receipt = telnyx::lookup_receipt(phase, status, body.as_bytes(), generation)?;
                Some((id, Fact::Receipt(receipt)))
            })
            .collect();
        Self { inner }
    }

    #[staticmethod]
    fn recovered(ids: Vec<u64>) -> Self {
        each(ids, &Fact::Recovered)
    }

    #[staticmethod]
    fn due(ids: Vec<u64>) -> Self {
        each(ids, &Fact::Due)
    }

    #[staticmethod]
    fn cancel(ids: Vec<u64>) -> Self {
        each(ids, &Fact::Cancel)
    }

    #[staticmethod]
    fn crashed(ids: Vec<u64>) -> Self {
        each(ids, &Fact::Crashed)
    }

    #[staticmethod]
    fn kept(ids: Vec<u64>) -> Self {
        each(ids, &Fact::Kept)
    }

    #[staticmethod]
    fn gates(gates: Vec<(u64, u8)>) -> PyResult<Self> {
        let inner = gates
            .into_iter()
            .map(|(id, gate)| {
                let gate = match gate {
                    1 => Gate::Expired,
                    2 => Gate::OptedOut,
                    3 => Gate::CampaignStopped,
                    _ => return Err(bad(format!("unknown gate {gate}"))),
                };
                Ok((id, Fact::GateClosed(gate)))
            })
            .collect::<PyResult<_>>()?;
        Ok(Self { inner })
    }
}

#[pyclass(frozen, module = "engine._core")]
struct Settler {
    policy: Mutex<Policy>,
}

#[pymethods]
impl Settler {
    #[new]
    fn new(policy: HashMap<String, i64>) -> PyResult<Self> {
        let mut made = Policy {
            attempts_max: 8,
            reconcile_wait_us: 60_000_000,
            no_receipt_after_us: 72 * 3_600_000_000,
            lookup_after_us: 30 * 60_000_000,
            backoff_base_us: 500_000,
            backoff_cap_us: 300_000_000,
            honours_keys: false,
            key_window_us: 23 * 3_600_000_000,
            day_reset_us: 0,
            spend_reset_us: 0,
        };
        for (name, value) in policy {
            match name.as_str() {
                "attempts_max" => made.attempts_max = u16::try_from(value).map_err(bad)?,
                "reconcile_wait_us" => made.reconcile_wait_us = value,
                "no_receipt_after_us" => made.no_receipt_after_us = value,
                "lookup_after_us" => made.lookup_after_us = value,
                "backoff_base_us" => made.backoff_base_us = value,
                "backoff_cap_us" => made.backoff_cap_us = value,
                "honours_keys" => made.honours_keys = value != 0,
                "key_window_us" => made.key_window_us = value,
                _ => return Err(bad(format!("unknown policy {name}"))),
            }
        }
        Ok(Self {
            policy: Mutex::new(made),
        })
    }

    fn set_resets(&self, day_reset_us: Micros, spend_reset_us: Micros) {
        let mut policy = lock(&self.policy);
        policy.day_reset_us = day_reset_us;
        policy.spend_reset_us = spend_reset_us;
    }

    fn settle(
        &self,
        py: Python<'_>,
        rows: &str,
        facts: &Facts,
        early: Vec<(u64, Bound<'_, PyBytes>)>,
        registry: &Registry,
        now_us: Micros,
        seed: u64,
    ) -> PyResult<Settlement> {
        let early = early
            .into_iter()
            .map(|(id, fact)| {
                Ok((
                    id,
                    serde_json::from_slice::<Receipt>(fact.as_bytes()).map_err(bad)?,
                ))
            })
            .collect::<PyResult<Vec<_>>>()?;
        let policy = lock(&self.policy).clone();
        let facts = facts.inner.clone();
        let registry = Arc::clone(&registry.inner);
        let changes = py.detach(|| {
            let rows = settling::rows_from_json(rows)?;
            Ok(settling::settle(
                rows, facts, early, &policy, &registry, now_us, seed,
            ))
        });
        Ok(Settlement {
            changes: changes.map_err(|error: serde_json::Error| bad(error))?,
        })
    }
}

#[pyclass(frozen, module = "engine._core")]
struct Settlement {
    changes: Changes,
}

fn id_or_none(provider_id: &str) -> Option<&str> {
    (!provider_id.is_empty()).then_some(provider_id)
}

#[pymethods]
impl Settlement {
    fn update_rows<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let rows = PyList::empty(py);
        for (row, seq, events) in &self.changes.updates {
            let cells: [Bound<'py, PyAny>; 15] = [
                row.id.into_pyobject(py)?.into_any(),
                seq.into_pyobject(py)?.into_any(),
                (row.state as u8).into_pyobject(py)?.into_any(),
                row.reason.into_pyobject(py)?.into_any(),
                row.code.as_str().into_pyobject(py)?.into_any(),
                row.seq.into_pyobject(py)?.into_any(),
                row.counted.into_pyobject(py)?.into_any(),
                row.flags.into_pyobject(py)?.into_any(),
                row.due_us.into_pyobject(py)?.into_any(),
                row.generation.into_pyobject(py)?.into_any(),
                row.updated_us.into_pyobject(py)?.into_any(),
                id_or_none(&row.provider_id).into_pyobject(py)?.into_any(),
                row.carrier.into_pyobject(py)?.into_any(),
                row.crashes.into_pyobject(py)?.into_any(),
                PyBytes::new(py, &events::history_of(events)).into_any(),
            ];
            rows.append(PyTuple::new(py, cells)?)?;
        }
        Ok(rows)
    }

    fn quiet_rows(&self) -> Vec<(u32, Micros, u8, u8, Option<&str>, u64, u32)> {
        self.changes
            .quiet
            .iter()
            .map(|row| {
                let provider_id = id_or_none(&row.provider_id);
                (
                    row.flags,
                    row.due_us,
                    row.carrier,
                    row.crashes,
                    provider_id,
                    row.id,
                    row.seq,
                )
            })
            .collect()
    }

    fn mysql_updates(&self, py: Python<'_>, bytes_max: usize) -> PyResult<Statements> {
        as_texts(py.detach(|| render::update_messages(&self.changes.updates, bytes_max)))
    }

    fn mysql_quiet(&self, py: Python<'_>, bytes_max: usize) -> PyResult<Statements> {
        as_texts(py.detach(|| render::update_quiet(&self.changes.quiet, bytes_max)))
    }

    fn event_rows(&self, py: Python<'_>, registry: &Registry) -> Vec<(u32, Py<PyBytes>)> {
        let registry = Arc::clone(&registry.inner);
        let rows = py.detach(|| {
            let all = self
                .changes
                .updates
                .iter()
                .flat_map(|(_, _, told)| told)
                .chain(&self.changes.conflicts);
            events::told(all, &registry)
        });
        blobs(py, rows)
    }

    fn keep_rows(&self, py: Python<'_>) -> PyResult<Vec<(u64, String, Py<PyBytes>)>> {
        self.changes
            .keep
            .iter()
            .map(|(id, receipt)| {
                Ok((
                    *id,
                    receipt.provider_id.clone(),
                    receipt_bytes(py, receipt)?,
                ))
            })
            .collect()
    }

    fn joined(&self) -> Vec<u64> {
        self.changes.joined.clone()
    }

    fn requeue(&self) -> Vec<u64> {
        self.changes.requeue.clone()
    }

    fn offered_again(&self) -> usize {
        self.changes.offered_again
    }

    fn lookups(&self) -> Vec<(u64, String, u16)> {
        self.changes.lookups.clone()
    }

    fn opt_outs(&self) -> Vec<(u32, u64, String)> {
        self.changes.opt_outs.clone()
    }

    fn learned(&self) -> Vec<(u64, u8)> {
        self.changes.learned.clone()
    }

    fn parks(&self) -> Vec<&'static str> {
        self.changes
            .parks
            .iter()
            .map(|park| if park.cap { "cap" } else { "rate" })
            .collect()
    }

    fn too_late(&self) -> Vec<u64> {
        self.changes.too_late.clone()
    }

    fn counts(&self) -> Vec<(u32, u8, u64)> {
        let mut counts: HashMap<(u32, u8), u64> = HashMap::new();
        for event in self.changes.updates.iter().flat_map(|(_, _, told)| told) {
            *counts.entry((event.campaign, event.state)).or_default() += 1;
        }
        counts
            .into_iter()
            .map(|((campaign, state), count)| (campaign, state, count))
            .collect()
    }

    fn conflicts(&self) -> usize {
        self.changes.conflicts.len()
    }
}

fn receipt_bytes(py: Python<'_>, receipt: &Receipt) -> PyResult<Py<PyBytes>> {
    Ok(blob(py, &serde_json::to_vec(receipt).map_err(bad)?))
}

// ---------------------------------------------------------------------------------------------------------- webhooks

#[pyclass(frozen, module = "engine._core")]
struct WebhookKeys {
    inner: Arc<telnyx::WebhookKeys>,
}

#[pymethods]
impl WebhookKeys {
    #[new]
    fn new(public: Vec<String>, mac: Vec<(String, Vec<u8>)>, window_us: i64) -> PyResult<Self> {
        let mut inner = telnyx::WebhookKeys {
            public: Vec::new(),
            mac,
            window_us,
        };
        for key in public {
            inner.add_public(&key).map_err(bad)?;
        }
        Ok(Self {
            inner: Arc::new(inner),
        })
    }
}

/// Provider, query, signature, timestamp, body.
type PlainWebhook<'a> = (
    &'a str,
    Bound<'a, PyBytes>,
    Bound<'a, PyBytes>,
    Bound<'a, PyBytes>,
    Bound<'a, PyBytes>,
);

#[pyclass(frozen, module = "engine._core")]
struct WebhookForm {
    inner: webhook_http::Form,
}

#[pymethods]
impl WebhookForm {
    #[new]
    fn new(
        providers: Vec<(String, String, String)>,
        head_bytes_max: usize,
        body_bytes_max: usize,
    ) -> Self {
        let providers = providers
            .into_iter()
            .map(|(name, signature, timestamp)| webhook_http::Provider {
                name,
                signature,
                timestamp,
            })
            .collect();
        Self {
            inner: webhook_http::Form {
                providers,
                head_bytes_max,
                body_bytes_max,
            },
        }
    }

    fn plain<'a>(&'a self, py: Python<'a>, data: &[u8]) -> Option<PlainWebhook<'a>> {
        let plain = self.inner.plain(data)?;
        let bytes = |value| PyBytes::new(py, value);
        Some((
            &self.inner.providers[plain.provider].name,
            bytes(plain.query),
            bytes(plain.signature),
            bytes(plain.timestamp),
            bytes(plain.body),
        ))
    }
}

#[pyclass(frozen, module = "engine._core")]
struct Webhooks {
    items: Vec<telnyx::ReceivedWebhook>,
}

impl Webhooks {
    fn at(&self, position: usize) -> PyResult<&telnyx::ReceivedWebhook> {
        self.items
            .get(position)
            .ok_or_else(|| bad("no webhook at this position"))
    }
}

#[pymethods]
impl Webhooks {
    #[staticmethod]
    fn read(
        py: Python<'_>,
        items: Vec<(Vec<u8>, Vec<u8>, Vec<u8>, Bound<'_, PyBytes>)>,
        keys: &WebhookKeys,
        now_us: Micros,
    ) -> Self {
        let items: Vec<_> = items
            .into_iter()
            .map(|(query, signature, timestamp, body)| {
                (query, signature, timestamp, body.as_bytes().to_vec())
            })
            .collect();
        let keys = Arc::clone(&keys.inner);
        let items = py.detach(|| {
            let raw: Vec<_> = items
                .iter()
                .map(|(query, signature, timestamp, body)| telnyx::RawWebhook {
                    query,
                    signature,
                    timestamp,
                    body,
                })
                .collect();
            telnyx::read_webhooks(&raw, &keys, now_us)
        });
        Self { items }
    }

    fn verdicts(&self) -> Vec<&'static str> {
        self.items
            .iter()
            .map(|item| match item.verdict {
                WebhookVerdict::Receipt { .. } => "receipt",
                WebhookVerdict::Inbound(_) => "inbound",
                WebhookVerdict::Other => "other",
                WebhookVerdict::WrongMac => "wrong_mac",
                WebhookVerdict::BadSignature => "bad_signature",
                WebhookVerdict::Stale => "stale",
                WebhookVerdict::Garbage => "garbage",
            })
            .collect()
    }

    fn good(&self) -> Vec<usize> {
        let good = |item: &telnyx::ReceivedWebhook| {
            matches!(
                item.verdict,
                WebhookVerdict::Receipt { .. } | WebhookVerdict::Inbound(_) | WebhookVerdict::Other
            )
        };
        self.items
            .iter()
            .enumerate()
            .filter(|(_, item)| good(item))
            .map(|(position, _)| position)
            .collect()
    }

    fn of(&self, positions: Vec<usize>) -> PyResult<Self> {
        let items = positions.into_iter();
        let items = items.map(|position| self.at(position).cloned());
        Ok(Self {
            items: items.collect::<PyResult<_>>()?,
        })
    }

    fn event_ids(&self, positions: Vec<usize>) -> PyResult<Vec<String>> {
        positions
            .into_iter()
            .map(|position| Ok(self.at(position)?.event_id.clone()))
            .collect()
    }

    fn named(&self, positions: Vec<usize>) -> PyResult<Vec<(usize, u64)>> {
        let mut found = Vec::new();
        for position in positions {
            if let WebhookVerdict::Receipt { message, .. } = self.at(position)?.verdict
                && message != 0
            {
                found.push((position, message));
            }
        }
        Ok(found)
    }

    fn provider_only(&self, positions: Vec<usize>) -> PyResult<Vec<(usize, String)>> {
        let mut found = Vec::new();
        for position in positions {
            let item = self.at(position)?;
            if matches!(item.verdict, WebhookVerdict::Receipt { message: 0, .. }) {
                found.push((position, item.provider_id.clone()));
            }
        }
        Ok(found)
    }

    fn early_rows(
        &self,
        py: Python<'_>,
        positions: Vec<usize>,
    ) -> PyResult<Vec<(String, Py<PyBytes>)>> {
        let mut rows = Vec::new();
        for position in positions {
            let item = self.at(position)?;
            if let WebhookVerdict::Receipt { receipt, .. } = &item.verdict {
                rows.push((item.provider_id.clone(), receipt_bytes(py, receipt)?));
            }
        }
        Ok(rows)
    }

    fn facts(&self, positions: Vec<usize>, resolved: HashMap<usize, u64>) -> PyResult<Facts> {
        let mut inner = Vec::new();
        for position in positions {
            if let WebhookVerdict::Receipt { message, receipt } = &self.at(position)?.verdict {
                let id = if *message == 0 {
                    resolved.get(&position).copied()
                } else {
                    Some(*message)
                };
                if let Some(id) = id {
                    inner.push((id, Fact::Receipt(receipt.clone())));
                }
            }
        }
        Ok(Facts { inner })
    }

    fn others(&self, positions: Vec<usize>) -> PyResult<Vec<(usize, String)>> {
        let mut found = Vec::new();
        for position in positions {
            let item = self.at(position)?;
            if item.verdict == WebhookVerdict::Other {
                found.push((position, item.event_id.clone()));
            }
        }
        Ok(found)
    }

    fn inbounds(&self, positions: Vec<usize>, registry: &Registry) -> PyResult<Vec<Inbound>> {
        let mut found = Vec::new();
        for position in positions {
            let item = self.at(position)?;
            let WebhookVerdict::Inbound(text) = &item.verdict else {
                continue;
            };
            let campaign = registry.inner.campaign_of_number(text.recipient);
            found.push(Inbound {
                tenant: campaign.map_or(0, |campaign| campaign.tenant),
                campaign: campaign
                    .map_or_else(String::new, |campaign| format!("campaigns/{}", campaign.id)),
                text: text.clone(),
                provider_id: item.provider_id.clone(),
                occurred_us: item.occurred_us,
            });
        }
        Ok(found)
    }
}

#[pyclass(frozen, module = "engine._core")]
struct Inbound {
    tenant: u32,
    campaign: String,
    text: InboundText,
    provider_id: String,
    occurred_us: Micros,
}

#[pymethods]
impl Inbound {
    #[getter]
    fn tenant(&self) -> u32 {
        self.tenant
    }

    #[getter]
    fn sender(&self) -> u64 {
        self.text.sender
    }

    #[getter]
    fn recipient(&self) -> u64 {
        self.text.recipient
    }

    #[getter]
    fn provider_id(&self) -> &str {
        &self.provider_id
    }

    #[getter]
    fn occurred_us(&self) -> Micros {
        self.occurred_us
    }

    #[getter]
    fn keyword(&self) -> &'static str {
        match text::opt_keyword(&self.text.text) {
            Some(text::OptKeyword::Stop) => "STOP",
            Some(text::OptKeyword::Start) => "START",
            None => "",
        }
    }

    #[getter]
    fn record(&self, py: Python<'_>) -> Py<PyBytes> {
        blob(
            py,
            &events::inbound_message(0, &self.text, self.occurred_us).encode_to_vec(),
        )
    }

    fn event(&self, py: Python<'_>, identity: u64, now_us: Micros) -> Py<PyBytes> {
        blob(
            py,
            &events::inbound(identity, &self.text, &self.campaign, now_us),
        )
    }
}

// --------------------------------------------------------------------------------------------------------- functions

#[pyfunction]
fn short_id(identity: u64) -> String {
    ids::short_id(identity)
}

#[pyfunction]
fn parse_short_id(text: &str) -> Option<u64> {
    ids::parse_short_id(text)
}

#[pyfunction]
fn id_time_us(identity: u64) -> Micros {
    ids::time_of(identity)
}

#[pyfunction]
fn first_id_at(at_us: Micros) -> u64 {
    ids::first_at(at_us)
}

#[pyfunction]
fn parse_phone(text: &str) -> Option<u64> {
    phone::parse_nanp(text).ok().map(phone::Phone::digits)
}

#[pyfunction]
fn consent_event(
    py: Python<'_>,
    kind: &str,
    recipient: u64,
    at_us: Micros,
) -> PyResult<Py<PyBytes>> {
    let kind = match kind {
        "OPT_OUT" => EventKind::OptOut,
        "OPT_OUT_EFFECTIVE" => EventKind::OptOutEffective,
        "OPT_IN" => EventKind::OptIn,
        _ => return Err(bad(format!("unknown kind of consent event {kind}"))),
    };
    Ok(blob(py, &events::consent(kind, recipient, at_us)))
}

#[pyfunction]
fn segment(text: &str) -> (&'static str, u32, u32, Vec<String>) {
    let measured = text::measure(text);
    let costly = text::costly_characters(text)
        .into_iter()
        .map(String::from)
        .collect();
    (
        measured.encoding.name(),
        measured.segments,
        measured.units,
        costly,
    )
}

#[pyfunction]
#[pyo3(signature = (text, wide_reference = false))]
fn split(text: &str, wide_reference: bool) -> PyResult<Vec<(String, u32)>> {
    let reference = if wide_reference {
        text::ReferenceSize::Bits16
    } else {
        text::ReferenceSize::Bits8
    };
    let parts = text::split(text, reference).map_err(bad)?;
    Ok(parts
        .into_iter()
        .map(|part| (part.text.to_owned(), part.units))
        .collect())
}

#[pyfunction]
fn smart_encode(text: &str) -> Option<String> {
    text::smart_encode(text, text::SmartTable::Telnyx)
}

fn stored_row(row: &Bound<'_, PyTuple>, provider: &str) -> PyResult<StoredRow> {
    let provider_key: u32 = column(row, 20)?;
    Ok(StoredRow {
        id: column(row, 0)?,
        tenant: column(row, 1)?,
        campaign: column(row, 2)?,
        sender: column(row, 3)?,
        recipient: column(row, 4)?,
        class: column(row, 5)?,
        kind: column(row, 6)?,
        encoding: column(row, 7)?,
        segments: column(row, 8)?,
        state: column(row, 9)?,
        reason: column(row, 10)?,
        code: column(row, 11)?,
        seq: column(row, 12)?,
        attempt: column(row, 13)?,
        generation: column(row, 14)?,
        flags: column(row, 15)?,
        due_us: column(row, 16)?,
        accept_us: column(row, 17)?,
        expires_us: column(row, 18)?,
        updated_us: column(row, 19)?,
        provider: if provider_key == 0 {
            String::new()
        } else {
            provider.to_owned()
        },
        provider_id: column::<Option<String>>(row, 21)?.unwrap_or_default(),
        carrier: column(row, 22)?,
        ..StoredRow::default()
    })
}

fn message_of(
    row: &Bound<'_, PyTuple>,
    campaign: &str,
    provider: &str,
) -> PyResult<crate::wire::Message> {
    let stored = stored_row(row, provider)?;
    let record: Vec<u8> = column(row, 24)?;
    view::message(&stored, &record, campaign).map_err(bad)
}

#[pyfunction]
fn message_bytes(
    py: Python<'_>,
    row: Bound<'_, PyTuple>,
    campaign: &str,
    provider: &str,
) -> PyResult<Py<PyBytes>> {
    Ok(blob(
        py,
        &message_of(&row, campaign, provider)?.encode_to_vec(),
    ))
}

#[pyfunction]
fn get_response(
    py: Python<'_>,
    row: Bound<'_, PyTuple>,
    campaign: &str,
    provider: &str,
) -> PyResult<Py<PyBytes>> {
    let message = message_of(&row, campaign, provider)?;
    let history: Vec<u8> = column(&row, 23)?;
    let name = format!("campaigns/{campaign}");
    let timeline = view::history_events(&history, &message.name, &name, &message.client_reference)
        .map_err(bad)?;
    Ok(blob(py, &view::get_response(message, timeline)))
}

#[pyfunction]
fn list_response(
    py: Python<'_>,
    messages: Vec<Vec<u8>>,
    next_page_token: String,
) -> PyResult<Py<PyBytes>> {
    let messages = messages
        .iter()
        .map(|bytes| crate::wire::Message::decode(bytes.as_slice()).map_err(bad))
        .collect::<PyResult<Vec<_>>>()?;
    Ok(blob(py, &view::list_response(messages, next_page_token)))
}

#[pyfunction]
fn record_reference(record: &[u8]) -> PyResult<String> {
    Ok(Submission::decode(record).map_err(bad)?.client_reference)
}

#[pyfunction]
fn record_request_id(record: &[u8]) -> PyResult<String> {
    Ok(Submission::decode(record).map_err(bad)?.request_id)
}

#[pyfunction]
fn watch_response(
    py: Python<'_>,
    events: Vec<Vec<u8>>,
    cursor: &str,
    campaigns: Vec<String>,
) -> Py<PyBytes> {
    let response = py.detach(|| crate::events::watch_response(&events, cursor, &campaigns));
    blob(py, &response)
}

type Head = (String, String, String);

fn send_config(head: Head) -> SendConfig {
    let (path_prefix, host, api_key) = head;
    SendConfig {
        path_prefix,
        host,
        api_key,
    }
}

#[pyfunction]
fn render_lookup(py: Python<'_>, provider_id: &str, config: Head) -> Py<PyBytes> {
    blob(
        py,
        &telnyx::render_lookup(provider_id, &send_config(config)),
    )
}

// ---------------------------------------------------------------------------------------------------------- schedule

#[pyclass(frozen, module = "engine._core")]
struct Scheduler {
    inner: Mutex<Owned>,
}

fn load_row(row: &Bound<'_, PyTuple>) -> PyResult<Held> {
    let stored = StoredRow {
        id: column(row, 0)?,
        tenant: column(row, 1)?,
        campaign: column(row, 2)?,
        sender: column(row, 3)?,
        recipient: column(row, 4)?,
        class: column(row, 5)?,
        kind: column(row, 6)?,
        encoding: column(row, 7)?,
        segments: column(row, 8)?,
        seq: column(row, 9)?,
        attempt: column(row, 10)?,
        generation: column(row, 11)?,
        counted: column(row, 12)?,
        flags: column(row, 13)?,
        due_us: column(row, 14)?,
        expires_us: column(row, 15)?,
        recipe: column(row, 16)?,
        ..StoredRow::default()
    };
    let record = row
        .get_item(17)?
        .cast_into::<PyBytes>()
        .map_err(|error| bad(error.to_string()))?;
    held_from_row(&stored, Arc::from(record.as_bytes())).map_err(bad)
}

/// Quota, day, to be added to spent, to be added to reserved.
type DeltaRow = (u32, i32, i64, i64);
/// Campaign, kind of stream, first and last id.
type AwayRow = (u32, u8, u64, u64);

fn away_row(away: Away) -> AwayRow {
    let Stream { campaign, kind } = away.stream;
    (campaign, kind as u8, away.from, away.upto)
}

fn stream_of(campaign: u32, number: u8) -> PyResult<Stream> {
    let kind = StreamKind::from_number(number).ok_or_else(|| bad("no such kind of stream"))?;
    Ok(Stream { campaign, kind })
}

#[pymethods]
impl Scheduler {
    #[new]
    fn new(config: HashMap<String, i64>, registry: &Registry, mono_us: Micros) -> PyResult<Self> {
        let mut made = scheduling::Config::default();
        for (name, value) in config {
            match name.as_str() {
                "held_messages_max" => made.held_messages_max = count(value)?,
                "provider" => made.provider = u32::try_from(value).map_err(bad)?,
                "leased_budgets" => made.leased_budgets = value != 0,
                _ => return Err(bad(format!("unknown setting {name}"))),
            }
        }
        made.seed = RandomState::new().hash_one(0);
        let messages_max = made.held_messages_max;
        let schedule = scheduling::Scheduler::new(made, Arc::clone(&registry.inner), mono_us);
        Ok(Self {
            inner: Mutex::new(Owned::new(schedule, messages_max)),
        })
    }

    fn __len__(&self) -> usize {
        lock(&self.inner).schedule.len()
    }

    #[getter]
    fn ahead(slf: PyRef<'_, Self>) -> Py<Self> {
        slf.into()
    }

    #[getter]
    fn schedule_room(&self) -> usize {
        lock(&self.inner).spill().schedule_room()
    }

    fn own(&self, shard: u32, epoch: u64, mono_us: Micros) -> PyResult<()> {
        if lock(&self.inner).own(shard, epoch, mono_us) {
            return Ok(());
        }
        Err(bad(format!("{shard} is no shard")))
    }

    fn disown(&self, py: Python<'_>, shards: Vec<u32>) -> PyResult<Vec<u64>> {
        let shards = ShardSet::of(&shards).ok_or_else(|| bad("one of them is no shard"))?;
        Ok(py.detach(|| lock(&self.inner).disown(shards)))
    }

    #[getter]
    fn shards(&self) -> Vec<u32> {
        lock(&self.inner).epochs().owned().iter().collect()
    }

    fn foreign_ended(&self, ids: Vec<u64>) -> usize {
        lock(&self.inner).foreign_ended(&ids)
    }

    fn push(&self, py: Python<'_>, admission: &Admission, now_us: Micros) -> Vec<(u32, Vec<u64>)> {
        py.detach(|| {
            let held = lock(&admission.inner).take_held();
            lock(&self.inner).push_fresh(held, now_us)
        })
    }

    fn load(
        &self,
        py: Python<'_>,
        rows: Vec<Bound<'_, PyTuple>>,
        now_us: Micros,
    ) -> PyResult<(usize, usize)> {
        let held = rows.iter().map(load_row).collect::<PyResult<Vec<_>>>()?;
        Ok(py.detach(|| lock(&self.inner).load(held, now_us)))
    }

    fn push_rows(
        &self,
        py: Python<'_>,
        rows: Vec<Bound<'_, PyTuple>>,
        now_us: Micros,
    ) -> PyResult<Vec<(u32, Vec<u64>)>> {
        let held = rows.iter().map(load_row).collect::<PyResult<Vec<_>>>()?;
        Ok(py.detach(|| lock(&self.inner).push_fresh(held, now_us)))
    }

    fn put_away(&self, campaign: u32, stream: u8, from_id: u64, upto_id: u64) -> PyResult<bool> {
        let away = Away {
            stream: stream_of(campaign, stream)?,
            from: from_id,
            upto: upto_id,
        };
        Ok(lock(&self.inner).put_away(away))
    }

    #[getter]
    fn any_away(&self) -> bool {
        lock(&self.inner).spill().is_any_away()
    }

    fn away(&self) -> Vec<AwayRow> {
        let away = lock(&self.inner).spill().away();
        away.into_iter().map(away_row).collect()
    }

    fn wanted(&self) -> Vec<(AwayRow, usize)> {
        let waiting = lock(&self.inner);
        let wanted = waiting.spill().wanted(waiting.held());
        wanted
            .into_iter()
            .map(|wanted| (away_row(wanted.away), wanted.messages_max))
            .collect()
    }

    fn read_back(
        &self,
        py: Python<'_>,
        rows: Vec<Bound<'_, PyTuple>>,
        campaign: u32,
        stream: u8,
        next_id: u64,
        now_us: Micros,
    ) -> PyResult<usize> {
        let stream = stream_of(campaign, stream)?;
        let held = rows.iter().map(load_row).collect::<PyResult<Vec<_>>>()?;
        Ok(py.detach(|| lock(&self.inner).read_back(held, stream, next_id, now_us)))
    }

    fn pop(
        &self,
        py: Python<'_>,
        now_us: Micros,
        mono_us: Micros,
        room: usize,
    ) -> (Dispatch, Vec<u64>, Vec<u64>, i64) {
        let (popped, epochs) = py.detach(|| {
            let mut waiting = lock(&self.inner);
            (waiting.pop(now_us, mono_us, room), waiting.epochs())
        });
        let ids = |held: &[Held]| held.iter().map(|held| held.id).collect::<Vec<u64>>();
        let (expired, blocked) = (ids(&popped.expired), ids(&popped.blocked));
        let wait_us = popped.wake_after_us.unwrap_or(-1);
        (
            Dispatch {
                held: Mutex::new(popped.ready),
                epochs,
                reservations: Mutex::default(),
                dropped: Mutex::default(),
                first_of_generation: Mutex::default(),
            },
            expired,
            blocked,
            wait_us,
        )
    }

    fn intended(&self, py: Python<'_>, dispatch: &Dispatch) -> Vec<LedgerRow> {
        let ids = dispatch.ids();
        py.detach(|| lock(&self.inner).intended(&ids))
    }

    fn charge(&self, py: Python<'_>, settlement: &Settlement) -> Vec<LedgerRow> {
        py.detach(|| {
            let mut waiting = lock(&self.inner);
            waiting.charge(&settlement.changes);
            waiting.ledger_rows()
        })
    }

    fn apply(&self, settlement: &Settlement, now_us: Micros, mono_us: Micros) {
        lock(&self.inner).apply(&settlement.changes, now_us, mono_us);
    }

    fn unpop(&self, dispatch: &Dispatch) -> Vec<u64> {
        // The transaction in which some were dropped came to nothing.
        dispatch.take_back();
        let ids = dispatch.ids();
        let mut waiting = lock(&self.inner);
        for &id in &ids {
            waiting.settle(id, Fate::NotTaken);
        }
        ids
    }

    fn dropped(&self, ids: Vec<u64>) {
        let mut waiting = lock(&self.inner);
        for id in ids {
            waiting.settle(id, Fate::NotTaken);
        }
    }

    fn given_up(&self, ids: Vec<u64>) {
        let mut waiting = lock(&self.inner);
        for id in ids {
            waiting.settle(id, Fate::Unknown);
        }
    }

    fn hold_keys(&self, rows: Vec<Bound<'_, PyTuple>>) -> PyResult<()> {
        let mut waiting = lock(&self.inner);
        for row in rows {
            let (id, tenant, campaign): (u64, u32, u32) =
                (column(&row, 0)?, column(&row, 1)?, column(&row, 2)?);
            let record = row
                .get_item(3)?
                .cast_into::<PyBytes>()
                .map_err(|error| bad(error.to_string()))?;
            let stored = StoredRow {
                id,
                tenant,
                campaign,
                class: Class::Transactional as u8,
                kind: 1,
                flags: flags::ORDERED,
                ..StoredRow::default()
            };
            let held = held_from_row(&stored, Arc::from(record.as_bytes())).map_err(bad)?;
            waiting.hold_key(tenant, campaign, held.ordering, id);
        }
        Ok(())
    }

    fn remove(&self, ids: Vec<u64>) -> usize {
        let mut waiting = lock(&self.inner);
        ids.into_iter().filter(|&id| waiting.remove(id)).count()
    }

    fn remove_recipient(&self, tenant: u32, recipient: u64) -> Vec<u64> {
        lock(&self.inner).remove_recipient(tenant, recipient)
    }

    fn outstanding_to(&self, tenant: u32, recipient: u64) -> u32 {
        lock(&self.inner).outstanding_to(tenant, recipient)
    }

    #[getter]
    fn outstanding(&self) -> usize {
        lock(&self.inner).outstanding()
    }

    fn set_registry(&self, registry: &Registry, mono_us: Micros) {
        lock(&self.inner)
            .schedule
            .set_registry(Arc::clone(&registry.inner), mono_us);
    }

    fn budgets_wanted(&self, mono_us: Micros) -> Vec<(u32, u64, u64)> {
        let wanted = lock(&self.inner).schedule.budgets_wanted(mono_us);
        wanted
            .into_iter()
            .map(|wanted| (wanted.quota, wanted.tokens, wanted.least))
            .collect()
    }

    fn grant(&self, quota: u32, tokens: u64, until_mono_us: Micros, again_at_mono_us: Micros) {
        lock(&self.inner)
            .schedule
            .grant(quota, tokens, until_mono_us, again_at_mono_us);
    }

    fn set_days(&self, days: Vec<(u32, i32, Micros)>) {
        lock(&self.inner).schedule.set_days(&days);
    }

    fn restore_ledgers(&self, rows: Vec<LedgerRow>) {
        lock(&self.inner).schedule.restore_ledger(&rows);
    }

    fn ledger_deltas(&self, py: Python<'_>, dispatch: &Dispatch) -> Vec<(u32, i32, u64, u64)> {
        py.detach(|| {
            let reservations = {
                let held = lock(&dispatch.held);
                lock(&self.inner).schedule.reservations(&held)
            };
            let rows = owned::guarded(&reservations);
            *lock(&dispatch.reservations) = reservations;
            rows
        })
    }

    fn reserved(&self, py: Python<'_>, dispatch: &Dispatch) {
        py.detach(|| {
            let ids = dispatch.ids();
            let left: HashSet<u64> = ids.iter().copied().collect();
            let mut reservations = std::mem::take(&mut *lock(&dispatch.reservations));
            reservations.retain(|of| left.contains(&of.id));
            lock(&self.inner).reserved(&ids, &reservations);
        });
    }

    fn charge_deltas(&self, py: Python<'_>, settlement: &Settlement) -> Vec<DeltaRow> {
        py.detach(|| {
            let mut waiting = lock(&self.inner);
            waiting.charge(&settlement.changes);
            waiting.schedule.take_deltas()
        })
    }

    fn deltas_undone(&self, rows: Vec<DeltaRow>) {
        lock(&self.inner).schedule.owe_deltas(&rows);
    }

    fn ledgers_seen(&self, rows: Vec<LedgerRow>) {
        lock(&self.inner).ledgers_seen(&rows);
    }

    fn ledger_rows(&self, py: Python<'_>) -> Vec<LedgerRow> {
        py.detach(|| lock(&self.inner).ledger_rows())
    }

    fn ledgers_stored(&self, rows: Vec<LedgerRow>) {
        lock(&self.inner).ledgers_stored(&rows);
    }

    fn learn(&self, rows: Vec<(u64, u8)>) {
        let mut waiting = lock(&self.inner);
        // Newest first in, so the newest must be learned last.
        for (recipient, carrier) in rows.into_iter().rev() {
            waiting
                .schedule
                .learn(recipient, Carrier::from_number(i64::from(carrier)));
        }
    }

    fn startable(&self, py: Python<'_>, now_us: Micros, mono_us: Micros) -> usize {
        py.detach(|| lock(&self.inner).schedule.startable(now_us, mono_us))
    }

    fn waiting(&self) -> Vec<(&'static str, usize)> {
        let counts = lock(&self.inner).schedule.counts();
        vec![
            ("ready", counts.ready),
            ("due", counts.due),
            ("quota", counts.quota),
            ("paused", counts.paused),
            ("ordering", counts.ordering),
            ("stopped", counts.stopped),
        ]
    }

    fn waiting_by_class(&self) -> Vec<(&'static str, usize)> {
        let [critical, transactional, bulk] = lock(&self.inner).schedule.counts().by_class;
        vec![
            ("CRITICAL", critical),
            ("TRANSACTIONAL", transactional),
            ("BULK", bulk),
        ]
    }
}

#[pyclass(frozen, module = "engine._core")]
struct Dispatch {
    held: Mutex<Vec<Held>>,
    /// As they were when it was popped.
    epochs: Arc<Epochs>,
    /// What its messages had reserved when that was last asked for.
    reservations: Mutex<Vec<scheduling::Reservation>>,
    /// Left the batch in a transaction that may be undone and run again.
    dropped: Mutex<Vec<Held>>,
    /// Those whose generation had no attempt before.
    first_of_generation: Mutex<HashSet<u64>>,
}

#[pymethods]
impl Dispatch {
    fn __len__(&self) -> usize {
        lock(&self.held).len()
    }

    fn ids(&self) -> Vec<u64> {
        lock(&self.held).iter().map(|held| held.id).collect()
    }

    fn shards(&self) -> Vec<(u32, u64)> {
        let held = lock(&self.held);
        self.epochs
            .of_campaigns(held.iter().map(|held| held.campaign))
    }

    fn epochs(&self) -> Vec<(u64, u64)> {
        let held = lock(&self.held);
        held.iter()
            .map(|held| (held.id, self.epochs.of_campaign(held.campaign)))
            .collect()
    }

    fn intent_rows<'py>(
        &self,
        py: Python<'py>,
        now_us: Micros,
        recipe: u32,
    ) -> PyResult<Bound<'py, PyList>> {
        let mut batch = lock(&self.held);
        let mut first = lock(&self.first_of_generation);
        let rows = PyList::empty(py);
        for held in batch.iter_mut() {
            if held.recipe == 0 {
                // Within a generation the bytes stay those of its first attempt.
                held.recipe = recipe;
                first.insert(held.id);
            }
            let event = events::intended(held, now_us);
            let history = events::history_of(std::slice::from_ref(&event));
            rows.append((held.id, held.seq, held.recipe, PyBytes::new(py, &history)))?;
        }
        Ok(rows)
    }

    fn mysql_intents(
        &self,
        py: Python<'_>,
        intent: (Micros, Micros, u64, u32, u32),
        only: Option<u64>,
        bytes_max: usize,
    ) -> PyResult<Statements> {
        let (now_us, due_us, epoch, provider, recipe) = intent;
        let intent = render::Intent {
            now_us,
            due_us,
            epochs: Epochs::all(epoch),
            provider,
            recipe,
        };
        let statements = py.detach(|| {
            let mut batch = lock(&self.held);
            let mut first = lock(&self.first_of_generation);
            for held in batch.iter_mut().filter(|held| held.recipe == 0) {
                // Within a generation the bytes stay those of its first attempt.
                held.recipe = recipe;
                first.insert(held.id);
            }
            match only {
                None => render::update_intents(&batch, &intent, bytes_max),
                Some(id) => {
                    let alone: Vec<Held> =
                        batch.iter().filter(|held| held.id == id).cloned().collect();
                    render::update_intents(&alone, &intent, bytes_max)
                }
            }
        });
        as_texts(statements)
    }

    fn opt_out_slots(&self) -> Vec<u16> {
        let mut slots: Vec<u16> = lock(&self.held)
            .iter()
            .map(|held| consent::slot(held.tenant, held.recipient))
            .collect();
        slots.sort_unstable();
        slots.dedup();
        slots
    }

    fn drop(&self, ids: Vec<u64>) {
        let gone: HashSet<u64> = ids.into_iter().collect();
        let mut dropped = lock(&self.dropped);
        let mut held = lock(&self.held);
        let (left, kept) = held
            .drain(..)
            .partition::<Vec<_>, _>(|held| gone.contains(&held.id));
        *held = kept;
        dropped.extend(left);
    }

    fn drop_charging(&self, quota: u32, day: i32, cap: u64) -> Vec<u64> {
        let charging: HashSet<u64> = lock(&self.reservations)
            .iter()
            .filter(|of| (of.quota, of.day) == (quota, day) && of.cap <= cap)
            .map(|of| of.id)
            .collect();
        let ids: Vec<u64> = self
            .ids()
            .into_iter()
            .filter(|id| charging.contains(id))
            .collect();
        self.drop(ids.clone());
        ids
    }

    fn take_back(&self) {
        let mut dropped = lock(&self.dropped);
        if !dropped.is_empty() {
            let mut held = lock(&self.held);
            held.append(&mut dropped);
            held.sort_by_key(|held| held.id);
        }
    }

    fn event_rows(
        &self,
        py: Python<'_>,
        registry: &Registry,
        now_us: Micros,
    ) -> Vec<(u32, Py<PyBytes>)> {
        let registry = Arc::clone(&registry.inner);
        let rows = py.detach(|| {
            let told: Vec<Told> = lock(&self.held)
                .iter()
                .map(|held| events::intended(held, now_us))
                .collect();
            events::told(&told, &registry)
        });
        blobs(py, rows)
    }

    fn requests(
        &self,
        py: Python<'_>,
        registry: &Registry,
        recipes: HashMap<u32, (String, String, Vec<u8>)>,
        config: Head,
        ids: Option<Vec<u64>>,
    ) -> PyResult<Vec<Request>> {
        let registry = Arc::clone(&registry.inner);
        let config = send_config(config);
        let recipes: HashMap<u32, Recipe> = recipes
            .into_iter()
            .map(|(key, (callback_base, mac_key_name, mac_key))| {
                (
                    key,
                    Recipe {
                        key,
                        callback_base,
                        mac_key_name,
                        mac_key,
                    },
                )
            })
            .collect();
        let wanted: Option<HashSet<u64>> = ids.map(|ids| ids.into_iter().collect());
        let rendered = py.detach(|| {
            let batch = lock(&self.held);
            // The MAC key of an old recipe may have been rotated out: then the newest, and the provider will tell.
            let newest = recipes.values().max_by_key(|recipe| recipe.key);
            batch
                .iter()
                .filter(|held| {
                    wanted
                        .as_ref()
                        .is_none_or(|wanted| wanted.contains(&held.id))
                })
                .map(|held| {
                    let recipe = recipes.get(&held.recipe).or(newest).ok_or("no recipe")?;
                    let submission =
                        Submission::decode(&*held.body).map_err(|_| "a damaged record")?;
                    let profile = registry
                        .campaign(held.campaign)
                        .map_or("", |campaign| campaign.messaging_profile.as_str());
                    Ok((
                        held.id,
                        held.attempt.saturating_add(1),
                        telnyx::render_send(held, &submission, profile, recipe, &config),
                    ))
                })
                .collect::<Result<Vec<_>, &str>>()
        });
        let first = lock(&self.first_of_generation);
        Ok(rendered
            .map_err(bad)?
            .into_iter()
            .map(|(id, attempt, data)| Request {
                id,
                attempt,
                // Beyond the first it only matters that the key was used before.
                tries_of_generation: if first.contains(&id) { 1 } else { 2 },
                data: blob(py, &data),
            })
            .collect())
    }
}

#[pyclass(frozen, module = "engine._core")]
struct Request {
    #[pyo3(get)]
    id: u64,
    #[pyo3(get)]
    attempt: u16,
    tries_of_generation: u16,
    data: Py<PyBytes>,
}

#[pymethods]
impl Request {
    #[getter]
    fn data(&self, py: Python<'_>) -> Py<PyBytes> {
        self.data.clone_ref(py)
    }
}

// -------------------------------------------------------------------------------------------------------------- edge

#[pyclass(frozen, module = "engine._core")]
struct EdgeRules {
    inner: Arc<edge::Rules>,
}

#[pymethods]
impl EdgeRules {
    #[new]
    #[pyo3(signature = (*, submit, unary, message_bytes_max, calls_max, given_up_a_second, submit_us_max, traced))]
    fn new(
        submit: String,
        unary: Vec<String>,
        message_bytes_max: usize,
        calls_max: u32,
        given_up_a_second: u64,
        submit_us_max: u64,
        traced: bool,
    ) -> Self {
        Self {
            inner: Arc::new(edge::Rules {
                submit,
                unary: unary.into_iter().collect(),
                message_bytes_max,
                calls_max,
                given_up_a_second,
                submit_us_max,
                traced,
            }),
        }
    }
}

#[pyclass(frozen, module = "engine._core")]
struct EdgeConnection {
    inner: Mutex<edge::Connection>,
}

type EdgeEvents = Vec<Py<PyTuple>>;
/// Below this the interpreter is kept: letting go and getting it back would take longer.
const LONG_BYTES: usize = 4096;

struct Metadata(Vec<(String, edge::Value)>);

impl<'py> IntoPyObject<'py> for Metadata {
    type Target = PyTuple;
    type Output = Bound<'py, PyTuple>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        let pairs = self
            .0
            .into_iter()
            .map(|(name, value)| match value {
                edge::Value::Text(text) => (name, text).into_pyobject(py),
                edge::Value::Binary(bytes) => (name, PyBytes::new(py, &bytes)).into_pyobject(py),
            })
            .collect::<PyResult<Vec<_>>>()?;
        PyTuple::new(py, pairs)
    }
}

/// As `_EdgeEvent` of the stub says: first a number that tells which.
fn edge_events(py: Python<'_>, events: Vec<edge::Event>) -> PyResult<EdgeEvents> {
    events
        .into_iter()
        .map(|event| {
            let tuple = match event {
                edge::Event::Submits {
                    metadata,
                    streams,
                    requests,
                    deadlines_us,
                } => {
                    let requests: Vec<_> = requests.iter().map(|each| blob(py, each)).collect();
                    (0, Metadata(metadata), streams, requests, deadlines_us).into_pyobject(py)?
                }
                edge::Event::Call {
                    stream,
                    path,
                    metadata,
                    deadline_us,
                    request,
                } => {
                    let (request, encoding) = match request {
                        Some((bytes, encoding)) => (Some(blob(py, &bytes)), encoding),
                        None => (None, None),
                    };
                    let metadata = Metadata(metadata);
                    (1, stream, path, metadata, deadline_us, request, encoding).into_pyobject(py)?
                }
                edge::Event::Message(stream, bytes, encoding) => {
                    (2, stream, blob(py, &bytes), encoding).into_pyobject(py)?
                }
                edge::Event::HalfClosed(stream) => (3, stream).into_pyobject(py)?,
                edge::Event::Gone(stream) => (4, stream).into_pyobject(py)?,
                edge::Event::Late(stream) => (5, stream).into_pyobject(py)?,
                edge::Event::TooLong(stream) => (6, stream).into_pyobject(py)?,
                edge::Event::Room(stream) => (7, stream).into_pyobject(py)?,
                edge::Event::Ended(flood) => (8, flood).into_pyobject(py)?,
            };
            Ok(tuple.unbind())
        })
        .collect()
}

#[pymethods]
impl EdgeConnection {
    #[new]
    fn new(rules: &EdgeRules, given_up_a_second: Option<u64>, now_us: u64) -> Self {
        let given_up = given_up_a_second.unwrap_or(rules.inner.given_up_a_second);
        let inner = edge::Connection::new(Arc::clone(&rules.inner), given_up, now_us);
        Self {
            inner: Mutex::new(inner),
        }
    }

    #[getter]
    fn due_us(&self) -> u64 {
        lock(&self.inner).due_us()
    }

    #[getter]
    fn calls(&self) -> usize {
        lock(&self.inner).calls()
    }

    #[getter]
    fn held_bytes(&self) -> usize {
        lock(&self.inner).held_bytes()
    }

    #[getter]
    fn held_since_us(&self) -> u64 {
        lock(&self.inner).held_since_us()
    }

    fn refuse_held(&self, py: Python<'_>, now_us: u64) -> PyResult<EdgeEvents> {
        let events = lock(&self.inner).refuse_held(now_us);
        edge_events(py, events)
    }

    #[getter]
    fn is_open(&self) -> bool {
        lock(&self.inner).is_open()
    }

    fn receive(&self, py: Python<'_>, data: &[u8], now_us: u64) -> PyResult<EdgeEvents> {
        let events = if data.len() < LONG_BYTES {
            lock(&self.inner).receive(data, now_us)
        } else {
            py.detach(|| lock(&self.inner).receive(data, now_us))
        };
        edge_events(py, events)
    }

    fn turn(&self, py: Python<'_>, now_us: u64) -> PyResult<(EdgeEvents, Py<PyBytes>)> {
        let (events, output) = {
            let mut inner = lock(&self.inner);
            let events = inner.turn(now_us);
            (events, inner.output())
        };
        Ok((edge_events(py, events)?, blob(py, &output)))
    }

    fn expire(&self, py: Python<'_>, now_us: u64) -> PyResult<EdgeEvents> {
        let events = lock(&self.inner).expire(now_us);
        edge_events(py, events)
    }

    /// Places of the replies that are no answers.
    fn answer(&self, streams: Vec<u32>, replies: Vec<Bound<'_, PyTuple>>) -> PyResult<Vec<usize>> {
        let mut refused = Vec::new();
        let mut inner = lock(&self.inner);
        for (place, (stream, reply)) in streams.iter().zip(&replies).enumerate() {
            if reply.get_borrowed_item(0)?.extract::<u8>()? == Verdict::Accepted as u8 {
                let response = reply.get_borrowed_item(1)?;
                inner.finish(*stream, response.cast::<PyBytes>()?.as_bytes());
            } else {
                refused.push(place);
            }
        }
        Ok(refused)
    }

    fn finish(&self, stream: u32, message: &[u8]) {
        lock(&self.inner).finish(stream, message);
    }

    fn send(&self, stream: u32, message: &[u8]) -> bool {
        lock(&self.inner).send(stream, message)
    }

    fn end(
        &self,
        stream: u32,
        code: u32,
        detail: &str,
        metadata: Vec<(String, Bound<'_, PyAny>)>,
    ) -> PyResult<()> {
        let metadata = metadata
            .into_iter()
            .map(|(name, value)| {
                let value = match value.cast::<PyBytes>() {
                    Ok(bytes) => edge::Value::Binary(bytes.as_bytes().to_vec()),
                    Err(_) => edge::Value::Text(value.extract()?),
                };
                Ok((name, value))
            })
            .collect::<PyResult<Vec<_>>>()?;
        lock(&self.inner).end(stream, code, detail, &metadata);
        Ok(())
    }

    fn took(&self, stream: u32) {
        lock(&self.inner).took(stream);
    }

    fn set_full(&self, full: bool) {
        lock(&self.inner).set_full(full);
    }

    fn ping(&self) -> bool {
        lock(&self.inner).ping()
    }

    fn leave(&self) {
        lock(&self.inner).leave();
    }
}

// ------------------------------------------------------------------------------------------------------------ module

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("RENDERER", telnyx::RENDERER)?;
    module.add("SHARDS", SHARDS)?;
    module.add("VERSION", env!("CARGO_PKG_VERSION"))?;
    module.add(
        "PROFILE",
        if cfg!(debug_assertions) {
            "debug"
        } else {
            "release"
        },
    )?;
    module.add_class::<Registry>()?;
    module.add_class::<Consent>()?;
    module.add_class::<Admitter>()?;
    module.add_class::<Admission>()?;
    module.add_class::<Facts>()?;
    module.add_class::<Settler>()?;
    module.add_class::<Settlement>()?;
    module.add_class::<Webhooks>()?;
    module.add_class::<WebhookForm>()?;
    module.add_class::<WebhookKeys>()?;
    module.add_class::<Inbound>()?;
    module.add_class::<Scheduler>()?;
    module.add_class::<Dispatch>()?;
    module.add_class::<Request>()?;
    module.add_class::<EdgeRules>()?;
    module.add_class::<EdgeConnection>()?;
    for function in [
        wrap_pyfunction!(admit_counts, module)?,
        wrap_pyfunction!(short_id, module)?,
        wrap_pyfunction!(parse_short_id, module)?,
        wrap_pyfunction!(id_time_us, module)?,
        wrap_pyfunction!(first_id_at, module)?,
        wrap_pyfunction!(parse_phone, module)?,
        wrap_pyfunction!(consent_event, module)?,
        wrap_pyfunction!(segment, module)?,
        wrap_pyfunction!(split, module)?,
        wrap_pyfunction!(smart_encode, module)?,
        wrap_pyfunction!(message_bytes, module)?,
        wrap_pyfunction!(get_response, module)?,
        wrap_pyfunction!(list_response, module)?,
        wrap_pyfunction!(record_reference, module)?,
        wrap_pyfunction!(record_request_id, module)?,
        wrap_pyfunction!(watch_response, module)?,
        wrap_pyfunction!(render_lookup, module)?,
        wrap_pyfunction!(urgency, module)?,
        wrap_pyfunction!(mysql_rows, module)?,
        wrap_pyfunction!(mysql_select_rows, module)?,
        wrap_pyfunction!(mysql_select_intended, module)?,
        wrap_pyfunction!(mysql_select_closed_gates, module)?,
        wrap_pyfunction!(opt_out_slot, module)?,
    ] {
        module.add_function(function)?;
    }
    Ok(())
}
