//! Measures the carrier's side: rendering a send, reading its answer, reading a signed webhook.
//!
//! It proves nothing. Run it with `cargo run --release --example telnyx_speed [rounds]`.

mod timing;

use std::hint::black_box;
use std::sync::Arc;

use _core::ids::short_id;
use _core::message::{Class, Held, Kind, Micros};
use _core::outcome::{Outcome, Phase};
use _core::telnyx::{
    RawWebhook, Recipe, SendConfig, WebhookKeys, WebhookVerdict, callback_mac, classify,
    read_webhooks, render_send,
};
use _core::wire::Submission;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};

const CALLS: u32 = 200;
const ROUNDS: u32 = 50;
const ID: u64 = 1 << 60;
const NOW_US: Micros = 1_750_000_000_000_000;
const MAC_KEY: &[u8] = &[7; 32];
const TEXT: &str =
    "Your order is on its way and arrives today between two and four in the afternoon";

fn held() -> Held {
    Held {
        id: ID,
        tenant: 1,
        campaign: 1,
        sender: 12_025_550_100,
        recipient: 13_125_550_123,
        class: Class::Transactional,
        kind: Kind::Sms,
        encoding: 1,
        segments: 1,
        seq: 1,
        attempt: 0,
        generation: 1,
        counted: 0,
        flags: 0,
        due_us: NOW_US,
        expires_us: NOW_US + 86_400_000_000,
        ordering: 0,
        recipe: 1,
        body: Arc::from([].as_slice()),
    }
}

/// What Telnyx shows of a message, in an answer as in a webhook.
fn shown(status: &str) -> String {
    format!(
        "{{\"record_type\":\"message\",\"direction\":\"outbound\",\"id\":\"40385f64-5717-4562-b3fc-2c963f66afa6\",\
         \"type\":\"SMS\",\"messaging_profile_id\":\"16fd2706-8baf-433b-82eb-8c7fada847da\",\
         \"organization_id\":\"47a530f8-4362-4526-829b-bcee17fd9f7a\",\
         \"from\":{{\"phone_number\":\"+12025550100\",\"carrier\":\"Telnyx\",\"line_type\":\"Wireless\"}},\
         \"to\":[{{\"phone_number\":\"+13125550123\",\"status\":\"{status}\",\"carrier\":\"AT&T Mobility\",\
         \"line_type\":\"Wireless\"}}],\"cc\":[],\"text\":\"{TEXT}\",\"media\":[],\"encoding\":\"GSM-7\",\"parts\":1,\
         \"tags\":[],\"cost\":{{\"amount\":\"0.0051\",\"currency\":\"USD\"}},\
         \"received_at\":\"2025-06-15T15:06:40.000+00:00\",\"sent_at\":null,\"completed_at\":null,\
         \"valid_until\":\"2025-06-15T16:06:40.000+00:00\",\"errors\":[]}}"
    )
}

fn measure<T>(name: &str, rounds: u32, mut call: impl FnMut() -> T) {
    let round = |_| {
        let all = || {
            for _ in 0..CALLS {
                black_box(call());
            }
        };
        timing::timed(all).0
    };
    timing::print_ns(name, CALLS, (0..rounds).map(round).collect());
}

fn main() {
    let rounds = timing::rounds(ROUNDS);
    let submission = Submission {
        campaign: "campaigns/speed".to_owned(),
        recipient: "+13125550123".to_owned(),
        text: TEXT.to_owned(),
        ..Submission::default()
    };
    let recipe = Recipe {
        key: 1,
        callback_base: "https://longwave.example".to_owned(),
        mac_key_name: "a".to_owned(),
        mac_key: MAC_KEY.to_vec(),
    };
    let config = SendConfig {
        path_prefix: "/v2".to_owned(),
        host: "api.telnyx.com".to_owned(),
        api_key: "KEY_made_up".to_owned(),
    };
    let held = held();
    measure("render a send", rounds, || {
        render_send(black_box(&held), &submission, "", &recipe, &config)
    });

    let answer = format!("{{\"data\":{}}}", shown("queued"));
    let taken = || classify(Phase::Answered, 200, None, black_box(answer.as_bytes()), 1);
    assert!(matches!(taken(), Outcome::Taken { .. }));
    measure("read an answer", rounds, taken);

    let body = format!(
        "{{\"data\":{{\"event_type\":\"message.finalized\",\"id\":\"4ee8c3a6-4995-4309-a3c6-38e3db9ea4be\",\
         \"occurred_at\":\"2025-06-15T15:06:41.000+00:00\",\"payload\":{},\"record_type\":\"event\"}},\
         \"meta\":{{\"attempt\":1}}}}",
        shown("delivered")
    );
    let signing = SigningKey::from_bytes(&[3; 32]);
    let stamp = (NOW_US / 1_000_000).to_string();
    let signature = STANDARD.encode(
        signing
            .sign(format!("{stamp}|{body}").as_bytes())
            .to_bytes(),
    );
    let keys = WebhookKeys {
        public: vec![signing.verifying_key()],
        mac: vec![("a".to_owned(), MAC_KEY.to_vec())],
        window_us: 300_000_000,
    };
    let mac = callback_mac(MAC_KEY, ID, 1);
    let query = format!("m={}&g=1&k=a&s={mac}", short_id(ID));
    let webhook = RawWebhook {
        query: query.as_bytes(),
        signature: signature.as_bytes(),
        timestamp: stamp.as_bytes(),
        body: body.as_bytes(),
    };
    let read = |count: usize| read_webhooks(black_box(&vec![webhook; count]), &keys, NOW_US);
    assert!(matches!(
        read(1)[0].verdict,
        WebhookVerdict::Receipt { message: ID, .. }
    ));
    measure("read a webhook, signature included", rounds, || read(1));
    measure("read 32 webhooks, signatures included", rounds / 32, || {
        read(32)
    });
}
