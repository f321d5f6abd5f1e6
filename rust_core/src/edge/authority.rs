//! Makes a call's pseudo-headers harmless before `h2` reads them.
//!
//! gRPC's clients with several addresses write them all into it, with commas (`10.0.0.1:50051,10.0.0.2:50051`); RFC 3986 has
//! no such authority, and `h2` resets the call. Nobody here reads it. So its separators are replaced in place, by characters
//! of the same length on the wire: no length changes, and both sides' header tables stay the same size.
//!
//! A `:path` (or any of its kind) that is not ASCII would end the connection with all its calls: such bytes become `_`, and
//! the call is one of no method.
//!
//! It keeps no table: literals are recognised by their form alone (RFC 7541, 6). A name that is itself taken from the
//! dynamic table, or a value that goes on in a CONTINUATION, is left as it is, and `h2` judges it.

/// Of `:authority`, and of all of `:authority`, `:method`, `:path` and `:scheme`, in the static table.
const INDEX: usize = 1;
const INDEX_LAST: usize = 7;
const NAME: &[u8] = b":authority";

/// Replace what separates in each literal `:authority` of this header block, and what is not ASCII in its kind.
pub(super) fn mask(block: &mut [u8]) {
    let mut at = 0;
    while at < block.len() {
        let first = block[at];
        let prefix_bits = match first {
            0x80.. => 7,
            0x40.. => 6,
            0x20.. => 5,
            _ => 4,
        };
        let Some((index, after)) = integer(block, at, prefix_bits) else {
            return;
        };
        at = after;
        if first >= 0x80 || prefix_bits == 5 {
            continue; // both of them from a table, or a table's size
        }
        let mut ours = index == INDEX;
        let mut pseudo = index <= INDEX_LAST;
        if index == 0 {
            let Some((name, _, after)) = string(block, at) else {
                return;
            };
            ours = &block[name..after] == NAME;
            pseudo = block[name..after].starts_with(b":");
            at = after;
        }
        let Some((value, huffman, after)) = string(block, at) else {
            return;
        };
        let value = &mut block[value..after];
        if huffman {
            if ours {
                mask_huffman(value);
            }
        } else if pseudo {
            for byte in value {
                if ours && matches!(byte, b',' | b':' | b'[' | b']' | b'%' | b'@') {
                    *byte = b'.';
                } else if !byte.is_ascii() {
                    *byte = b'_';
                }
            }
        }
        at = after;
    }
}

/// An integer with a prefix of so many bits, and the place behind it (RFC 7541, 5.1).
fn integer(block: &[u8], at: usize, prefix_bits: u32) -> Option<(usize, usize)> {
    let full = (1 << prefix_bits) - 1;
    let mut value = usize::from(*block.get(at)?) & full;
    let mut at = at + 1;
    if value < full {
        return Some((value, at));
    }
    for shift in [0, 7, 14, 21] {
        let byte = usize::from(*block.get(at)?);
        at += 1;
        value += (byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some((value, at));
        }
    }
    None
}

/// Where a string begins, whether it is Huffman-coded, and the place behind it (RFC 7541, 5.2).
fn string(block: &[u8], at: usize) -> Option<(usize, bool, usize)> {
    let huffman = *block.get(at)? >= 0x80;
    let (length, begins) = integer(block, at, 7)?;
    let after = begins.checked_add(length)?;
    (after <= block.len()).then_some((begins, huffman, after))
}

/// Codes of RFC 7541, appendix B, are canonical: those of a length are neighbours, and shorter ones come first. So a code's
/// length is found without a table. `(bits, highest code of so many bits)`; longer ones are in no host's name.
const LENGTHS: [(u32, u32); 8] = [
    (5, 0x09),
    (6, 0x2d),
    (7, 0x7b),
    (8, 0xfd),
    (10, 0x3fc),
    (11, 0x7fc),
    (12, 0xffb),
    (13, 0x1ffd),
];

/// The code of a separator, and of a character with as many bits that separates nothing.
const SWAPS: [(u32, u32, u32); 6] = [
    (6, 0x15, 0x17),      // % .
    (7, 0x5c, 0x5d),      // : B
    (8, 0xfa, 0xfc),      // , X
    (13, 0x1ffa, 0x1ffd), // @ ~
    (13, 0x1ffb, 0x1ffd), // [ ~
    (13, 0x1ffc, 0x1ffd), // ] ~
];

fn mask_huffman(bytes: &mut [u8]) {
    let end = bytes.len() * 8;
    let mut at = 0;
    while at < end {
        let word = (0..13).fold(0, |word, bit| word << 1 | bit_at(bytes, at + bit));
        let Some(&(bits, _)) = LENGTHS
            .iter()
            .find(|(bits, highest)| word >> (13 - bits) <= *highest)
        else {
            return; // padding, or no host's name
        };
        let next = at + bits as usize;
        if next > end {
            return;
        }
        let code = word >> (13 - bits);
        if let Some((_, _, other)) = SWAPS.iter().find(|swap| (swap.0, swap.1) == (bits, code)) {
            for bit in 0..bits {
                set_bit(bytes, next - 1 - bit as usize, other >> bit & 1);
            }
        }
        at = next;
    }
}

/// Beyond the end are ones, as padding is.
fn bit_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at / 8)
        .map_or(1, |byte| u32::from(byte >> (7 - at % 8) & 1))
}

fn set_bit(bytes: &mut [u8], at: usize, bit: u32) {
    let mask = 0x80 >> (at % 8);
    if bit == 1 {
        bytes[at / 8] |= mask;
    } else {
        bytes[at / 8] &= !mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn literal(name_index: u8, value: &[u8]) -> Vec<u8> {
        let length = u8::try_from(value.len()).unwrap();
        [&[0x40 | name_index, length], value].concat()
    }

    #[test]
    fn a_comma_list_of_addresses_becomes_one_name_of_the_same_length() {
        let mut block = literal(1, b"127.0.0.1:1,[::1]:2");
        mask(&mut block);
        assert_eq!(block, literal(1, b"127.0.0.1.1....1..2".as_slice()));
    }

    #[test]
    fn other_fields_stay_as_they_are() {
        let block = [
            &[0x82, 0x3f, 0xe1, 0x1f][..],
            &literal(4, b"/a:b,c"),
            &[0x10, 4],
            b"host",
            &[3],
            b"a,b",
        ]
        .concat();
        let mut masked = block.clone();
        mask(&mut masked);
        assert_eq!(masked, block);
    }

    #[test]
    fn a_path_that_is_not_ascii_is_a_path_of_nothing() {
        let mut block = [literal(4, b"/\xffx"), literal(15, b"\xff")].concat();
        mask(&mut block);
        assert_eq!(block, [literal(4, b"/_x"), literal(15, b"\xff")].concat());
    }

    #[test]
    fn a_name_that_is_spelt_out_is_known_too() {
        let mut block = [&[0x10, 10][..], NAME, &[3], b"a,b"].concat();
        mask(&mut block);
        assert!(block.ends_with(b"a.b"));
    }

    /// RFC 7541, C.4.1, has the Huffman code of `www.example.com`.
    #[test]
    fn huffman_codes_are_swapped_for_codes_of_the_same_length() {
        let name = [
            0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
        ];
        let mut same = name;
        mask_huffman(&mut same);
        assert_eq!(same, name);
        // `a:1,b:2`: 00011 1011100 00001 11111010 100011 1011100 00010, padded.
        let mut list = [
            0b0001_1101,
            0b1100_0000,
            0b1111_1101,
            0b0100_0111,
            0b0111_0000,
            0b0101_1111,
        ];
        mask_huffman(&mut list);
        // `aB1XbB2`
        assert_eq!(
            list,
            [
                0b0001_1101,
                0b1101_0000,
                0b1111_1110,
                0b0100_0111,
                0b0111_0100,
                0b0101_1111
            ]
        );
    }

    proptest! {
        #[test]
        fn any_bytes_keep_their_length_and_nothing_panics(mut block in proptest::collection::vec(any::<u8>(), 0..300)) {
            let length = block.len();
            mask(&mut block);
            prop_assert_eq!(block.len(), length);
            let once = block.clone();
            mask(&mut block);
            prop_assert_eq!(block, once);
        }
    }
}
