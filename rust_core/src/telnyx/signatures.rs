//! Signatures of webhooks: those that came together are judged by one equation, which costs less than each by itself.
//!
//! Where the equation does not hold, each is judged alone, strictly: RFC 8032, and no point of small order. What it takes
//! and strict judging does not can only be made by who knows the secret key.

use ed25519_dalek::{Signature, VerifyingKey, verify_batch};

/// Fewer are judged one by one.
const TOGETHER_MIN: usize = 4;
/// So many an equation: what one wrong signature costs those that came with it is bounded.
const TOGETHER_MAX: usize = 64;

/// A message and its signature.
pub(super) struct Signed {
    pub message: Vec<u8>,
    pub signature: Signature,
}

impl Signed {
    fn holds(&self, key: &VerifyingKey) -> bool {
        key.verify_strict(&self.message, &self.signature).is_ok()
    }
}

/// Of each, whether one of the keys made its signature.
pub(super) fn held(signed: &[Signed], keys: &[VerifyingKey]) -> Vec<bool> {
    signed
        .chunks(TOGETHER_MAX)
        .flat_map(|part| held_part(part, keys))
        .collect()
}

fn held_part(signed: &[Signed], keys: &[VerifyingKey]) -> Vec<bool> {
    // While one key replaces another, the first signature tells whose the others are likely to be.
    let key = match keys {
        [only] => Some(only),
        _ => keys
            .iter()
            .find(|key| signed.first().is_some_and(|first| first.holds(key))),
    };
    if signed.len() >= TOGETHER_MIN && key.is_some_and(|key| all_hold(signed, key)) {
        return vec![true; signed.len()];
    }
    signed
        .iter()
        .map(|each| keys.iter().any(|key| each.holds(key)))
        .collect()
}

/// Whether all hold. Of a key of small order anything would.
fn all_hold(signed: &[Signed], key: &VerifyingKey) -> bool {
    let messages: Vec<&[u8]> = signed.iter().map(|each| &*each.message).collect();
    let signatures: Vec<Signature> = signed.iter().map(|each| each.signature).collect();
    !key.is_weak() && verify_batch(&messages, &signatures, &vec![*key; signed.len()]).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signer as _, SigningKey};
    use proptest::prelude::*;

    fn signer(number: u8) -> SigningKey {
        SigningKey::from_bytes(&[number; 32])
    }

    fn signed(by: &SigningKey, number: usize) -> Signed {
        let message = format!("1764288000|{{\"data\":{{\"id\":\"{number}\"}}}}").into_bytes();
        let signature = by.sign(&message);
        Signed { message, signature }
    }

    fn several(by: &SigningKey, count: usize) -> Vec<Signed> {
        (0..count).map(|number| signed(by, number)).collect()
    }

    /// Its second half one more, or one less; no carry, for a byte in its middle.
    fn shifted(signature: &Signature, by: i8) -> Signature {
        let mut s = *signature.s_bytes();
        s[7] = s[7].checked_add_signed(by).unwrap();
        Signature::from_components(*signature.r_bytes(), s)
    }

    #[test]
    fn all_that_one_key_signed_hold_together() {
        let key = signer(1).verifying_key();
        for count in [1, TOGETHER_MIN, 7, TOGETHER_MAX, TOGETHER_MAX + 1, 200] {
            let all = several(&signer(1), count);
            assert!(all.chunks(TOGETHER_MAX).all(|part| all_hold(part, &key)));
            assert_eq!(held(&all, &[key]), vec![true; count]);
        }
    }

    #[test]
    fn errors_that_cancel_each_other_out_are_found() {
        let key = signer(1).verifying_key();
        let mut all = several(&signer(1), 8);
        all[2].signature = shifted(&all[2].signature, 1);
        all[6].signature = shifted(&all[6].signature, -1);
        assert!(!all_hold(&all, &key));
        let wanted: Vec<bool> = (0..8).map(|place| ![2, 6].contains(&place)).collect();
        assert_eq!(held(&all, &[key]), wanted);
    }

    #[test]
    fn signatures_of_two_messages_exchanged_are_found() {
        let key = signer(1).verifying_key();
        let mut all = several(&signer(1), 8);
        (all[0].signature, all[1].signature) = (all[1].signature, all[0].signature);
        assert!(!all_hold(&all, &key));
        assert_eq!(held(&all, &[key])[..3], [false, false, true]);
    }

    #[test]
    fn while_one_key_replaces_another_both_count() {
        let keys = [signer(1).verifying_key(), signer(2).verifying_key()];
        for by in [1, 2] {
            let all = several(&signer(by), 16);
            assert_eq!(held(&all, &keys), vec![true; 16]);
        }
        let mut mixed = several(&signer(1), 8);
        mixed.extend(several(&signer(2), 8));
        mixed.extend(several(&signer(3), 2));
        assert_eq!(
            held(&mixed, &keys),
            [vec![true; 16], vec![false; 2]].concat()
        );
        assert_eq!(held(&mixed, &[]), vec![false; 18]);
    }

    #[test]
    fn by_a_key_of_small_order_nothing_holds() {
        // The identity as a key: for s = 0 and R = A every message holds, but for strict judging.
        let mut one = [0; 32];
        one[0] = 1;
        let weak = VerifyingKey::from_bytes(&one).unwrap();
        let forged = Signature::from_components(one, [0; 32]);
        let all: Vec<Signed> = several(&signer(1), 8)
            .into_iter()
            .map(|each| Signed {
                signature: forged,
                ..each
            })
            .collect();
        assert!(!all_hold(&all, &weak));
        assert_eq!(held(&all, &[weak]), vec![false; 8]);
    }

    proptest! {
        // Each costs some thirty verifications, which nothing has optimised here.
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn together_they_are_judged_as_alone(
            faults in proptest::collection::vec((0_u8..16, any::<u16>()), 1..12),
        ) {
            let keys = [signer(1).verifying_key()];
            let mut all = several(&signer(1), faults.len());
            for (each, (fault, bit)) in all.iter_mut().zip(&faults) {
                let bit = usize::from(*bit);
                match fault {
                    0 => {
                        let at = bit / 8 % each.message.len();
                        each.message[at] ^= 1 << (bit % 8);
                    }
                    1 => {
                        let mut bytes = each.signature.to_bytes();
                        bytes[bit / 8 % 64] ^= 1 << (bit % 8);
                        each.signature = Signature::from_bytes(&bytes);
                    }
                    2 => each.signature = signer(2).sign(&each.message),
                    _ => {}
                }
            }
            let alone: Vec<bool> = all.iter().map(|each| each.holds(&keys[0])).collect();
            prop_assert_eq!(held(&all, &keys), alone);
        }
    }
}
