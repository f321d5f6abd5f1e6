//! The closed, numbered list of our answers at the door: name, number, gRPC status and what the caller is to do.
//!
//! It judges nothing. Numbers and names are the proto's `Verdict`; a test compares them, statuses included.

/// Status codes of gRPC, as far as verdicts use them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Status {
    /// Success.
    Ok = 0,
    /// The request itself is wrong.
    InvalidArgument = 3,
    /// Too late.
    DeadlineExceeded = 4,
    /// No such resource.
    NotFound = 5,
    /// The resource exists.
    AlreadyExists = 6,
    /// The caller may not.
    PermissionDenied = 7,
    /// Too much.
    ResourceExhausted = 8,
    /// The state of things forbids it.
    FailedPrecondition = 9,
    /// Outside of what is kept.
    OutOfRange = 11,
    /// A bug.
    Internal = 13,
    /// Not now.
    Unavailable = 14,
    /// Who is calling?
    Unauthenticated = 16,
}

/// One list for everything, so that a new verdict cannot lack a part. The last text is a verdict's doc comment.
macro_rules! verdicts {
    ($($variant:ident = $number:literal, $name:literal, $status:ident, $advice:literal;)*) => {
        /// What Longwave answers, and why.
        #[expect(clippy::doc_markdown, reason = "the texts are answers to callers first, and those show no backticks")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Verdict {
            $(#[doc = $advice] $variant = $number,)*
        }

        impl Verdict {
            /// Every verdict, by number.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The proto's name without `VERDICT_`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The status of a call that this verdict refuses.
            #[must_use]
            pub const fn status(self) -> Status {
                match self { $(Self::$variant => Status::$status,)* }
            }

            /// What happened and what to do, in one line without a caller's data.
            #[must_use]
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$variant => $advice,)* }
            }
        }
    };
}

verdicts! {
    Accepted = 1, "ACCEPTED", Ok, "committed; the message will reach a terminal state";

    Undecodable = 10, "UNDECODABLE", InvalidArgument,
        "the bytes are not a submission, or a text in it is not UTF-8: encode it by the published proto";
    InvalidRecipient = 11, "INVALID_RECIPIENT", InvalidArgument, "give the recipient as +1 and ten digits";
    InvalidSender = 12, "INVALID_SENDER", InvalidArgument,
        "give the sender as +1 and ten digits, or leave it empty";
    EmptyContent = 13, "EMPTY_CONTENT", InvalidArgument, "give a text that is not blank, or media";
    InvalidText = 14, "INVALID_TEXT", InvalidArgument, "remove the NUL character from the text";
    TextTooLong = 15, "TEXT_TOO_LONG", InvalidArgument, "shorten the text";
    InvalidMedia = 16, "INVALID_MEDIA", InvalidArgument,
        "give at most 10 http or https URLs, and a subject only with media";
    InvalidScheduleTime = 17, "INVALID_SCHEDULE_TIME", InvalidArgument, "choose an earlier schedule_time";
    InvalidValidity = 18, "INVALID_VALIDITY", InvalidArgument, "choose a positive, shorter validity";
    InvalidRequestId = 19, "INVALID_REQUEST_ID", InvalidArgument,
        "give a request_id of 1 to 64 printable ASCII characters";
    InvalidOrderingKey = 20, "INVALID_ORDERING_KEY", InvalidArgument, "shorten ordering_key, or remove its NUL character";
    InvalidClientReference = 21, "INVALID_CLIENT_REFERENCE", InvalidArgument, "shorten client_reference, or remove its NUL character";
    InvalidLabels = 22, "INVALID_LABELS", InvalidArgument, "give fewer or shorter labels, each with a key, none with a NUL character";
    InvalidEnum = 23, "INVALID_ENUM", InvalidArgument, "use a value that the published proto lists";
    InvalidField = 24, "INVALID_FIELD", InvalidArgument, "give the field in the form that the proto states";
    InvalidPageToken = 25, "INVALID_PAGE_TOKEN", InvalidArgument,
        "use the token of the page before with the same arguments, or none";
    InvalidCursor = 26, "INVALID_CURSOR", InvalidArgument, "use a cursor of a response before, `begin`, or none";
    InvalidBatch = 27, "INVALID_BATCH", InvalidArgument, "give at least one submission and no more than allowed";

    RequestIdReused = 30, "REQUEST_ID_REUSED", InvalidArgument,
        "this request_id came before with other content: give other content another id";
    AlreadyExists = 31, "ALREADY_EXISTS", AlreadyExists, "the resource exists already: choose another id";
    NotCancellable = 32, "NOT_CANCELLABLE", FailedPrecondition, "the message can no longer be cancelled";
    FailedPrecondition = 33, "FAILED_PRECONDITION", FailedPrecondition,
        "the resource is in use or its state forbids this";

    CampaignNotFound = 40, "CAMPAIGN_NOT_FOUND", NotFound,
        "no such campaign for this key: give campaigns/ and the id of one of yours";
    CampaignStopped = 41, "CAMPAIGN_STOPPED", FailedPrecondition,
        "the campaign is stopped: use another, or have it started again";
    SenderNotInCampaign = 42, "SENDER_NOT_IN_CAMPAIGN", InvalidArgument,
        "the sender is not a number of this campaign: give one that is, or leave it empty";
    NoSender = 43, "NO_SENDER", FailedPrecondition, "the campaign has no active number: have one added";
    RecipientOptedOut = 44, "RECIPIENT_OPTED_OUT", FailedPrecondition,
        "the recipient has opted out: do not send until they opt in again";
    ExceedsQuota = 45, "EXCEEDS_QUOTA", InvalidArgument,
        "the message counts more than one of its quotas can ever pass at once: shorten it, or have the quota raised";
    TenantSuspended = 46, "TENANT_SUSPENDED", PermissionDenied, "the tenant is suspended: ask the operator";

    Unauthenticated = 50, "UNAUTHENTICATED", Unauthenticated, "send a valid API key";
    PermissionDenied = 51, "PERMISSION_DENIED", PermissionDenied, "use a key whose role may do this";
    NotFound = 52, "NOT_FOUND", NotFound, "no such resource for this key";
    CursorExpired = 53, "CURSOR_EXPIRED", OutOfRange,
        "the cursor is older than the retained events: watch again from `begin`";

    QueueFull = 60, "QUEUE_FULL", ResourceExhausted,
        "as many messages for a later time wait as this server holds; not stored: retry after the stated delay";
    StoreFull = 61, "STORE_FULL", ResourceExhausted,
        "the store's disk is full; not stored: retry after the stated delay";
    CreditExceeded = 62, "CREDIT_EXCEEDED", ResourceExhausted,
        "more was in flight than the credit given; not stored: wait for credit";
    SubscriberTooSlow = 63, "SUBSCRIBER_TOO_SLOW", ResourceExhausted,
        "the subscriber read too slowly: resume from the cursor given";
    TooManyCalls = 64, "TOO_MANY_CALLS", ResourceExhausted,
        "too many calls or streams at once: retry after the stated delay";
    Overloaded = 65, "OVERLOADED", ResourceExhausted,
        "more comes in than is stored in time; this try stored nothing: retry after the stated delay";
    BacklogTooLong = 66, "BACKLOG_TOO_LONG", ResourceExhausted,
        "it would expire behind what waits; not stored: give it a longer validity, or retry after the stated delay";

    StoreUnavailable = 70, "STORE_UNAVAILABLE", Unavailable,
        "unknown whether stored: retry with the same request_id";
    NotReady = 71, "NOT_READY", Unavailable, "the server drains or is not ready; not stored: retry";
    DeadlinePassed = 72, "DEADLINE_PASSED", DeadlineExceeded,
        "the deadline passed before the message was taken up; not stored: retry with a longer deadline";
    Internal = 73, "INTERNAL", Internal, "a fault of the server; unknown whether stored: retry with the same request_id";
}

impl Verdict {
    /// The proto's number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The verdict with this number.
    #[must_use]
    pub fn from_number(number: i64) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|verdict| i64::from(verdict.number()) == number)
    }

    /// The number of the gRPC status.
    #[must_use]
    pub const fn grpc_code(self) -> i32 {
        self.status() as i32
    }

    /// May the very same submission succeed later, or be known to have succeeded: the SDK retries these and no others.
    #[must_use]
    pub const fn retryable(self) -> bool {
        self.number() >= 60
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROTO: &str = include_str!("../../proto/longwave/v1/verdict.proto");

    /// `INVALID_ARGUMENT` of `Status::InvalidArgument`.
    fn spelled(status: Status) -> String {
        let mut text = String::new();
        for character in format!("{status:?}").chars() {
            if character.is_ascii_uppercase() && !text.is_empty() {
                text.push('_');
            }
            text.push(character.to_ascii_uppercase());
        }
        text
    }

    /// The statuses a comment names.
    fn statuses_in(comment: &str) -> Vec<&str> {
        let known: Vec<String> = Verdict::ALL
            .iter()
            .map(|verdict| spelled(verdict.status()))
            .collect();
        comment
            .split([' ', '.'])
            .filter(|word| *word != "OK" && known.iter().any(|status| status == word))
            .collect()
    }

    #[test]
    fn names_numbers_and_statuses_are_the_protos() {
        let body = PROTO.split_once("enum Verdict {").expect("the enum").1;
        let (mut section, mut comment, mut seen) = (String::new(), String::new(), Vec::new());
        for line in body.lines().map(str::trim) {
            if let Some(text) = line.strip_prefix("// ") {
                comment.push_str(text);
                comment.push(' ');
            } else if line.is_empty() {
                if comment.contains(" to ") && comment.as_bytes()[0].is_ascii_digit() {
                    section.clone_from(&comment);
                }
                comment.clear();
            } else if let Some((name, number)) = line.trim_end_matches(';').split_once(" = ") {
                let name = name.strip_prefix("VERDICT_").expect("the prefix");
                let number: i64 = number.parse().expect("a number");
                if name != "UNSPECIFIED" {
                    let verdict = Verdict::from_number(number).expect(name);
                    assert_eq!(verdict.name(), name);
                    let own = statuses_in(&comment);
                    let allowed = if own.is_empty() {
                        statuses_in(&section)
                    } else {
                        own
                    };
                    if verdict != Verdict::Accepted {
                        assert!(
                            allowed.contains(&spelled(verdict.status()).as_str()),
                            "{name}: {allowed:?}"
                        );
                    }
                    seen.push(verdict);
                }
                comment.clear();
            }
        }
        assert_eq!(seen, Verdict::ALL);
    }

    #[test]
    fn every_verdict_says_what_to_do_and_only_passing_troubles_are_retried() {
        for &verdict in Verdict::ALL {
            assert!(!verdict.advice().is_empty());
            let passing = matches!(
                verdict.status(),
                Status::ResourceExhausted
                    | Status::Unavailable
                    | Status::DeadlineExceeded
                    | Status::Internal
            );
            assert_eq!(verdict.retryable(), passing, "{}", verdict.name());
        }
    }
}
