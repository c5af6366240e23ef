//! Mutates bytes by counter: the same input and round give the same mutation.

/// Numbers at the edges of integer types and other ranges.
const EDGES: [u64; 10] = [
    0,
    1,
    0x7f,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    i64::MAX as u64,
    u64::MAX,
];

/// SplitMix64.
pub struct Mutator {
    state: u64,
}

impl Mutator {
    pub fn new(round: u64, input: u64) -> Mutator {
        Mutator {
            state: round.wrapping_mul(0x1000_0001).wrapping_add(input),
        }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`; 0 if `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % (n.max(1) as u64)) as usize
    }

    /// Makes one to four changes.
    pub fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        for _ in 0..=self.below(4) {
            self.change_once(bytes, other);
        }
    }

    fn change_once(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(bytes.len());
        let end = (at + 1 + self.below(64)).min(bytes.len());
        match self.below(9) {
            0 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << self.below(8);
                }
            }
            1 => {
                let value = self.next() as u8;
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            2 => {
                let edge = EDGES[self.below(EDGES.len())].to_le_bytes();
                let width = [1, 2, 4, 8][self.below(4)];
                for (to, from) in bytes.iter_mut().skip(at).zip(&edge[..width]) {
                    *to = *from;
                }
            }
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..end)),
            5 => {
                let part = bytes[at.min(end)..end].to_vec();
                let to = self.below(bytes.len());
                bytes.splice(to..to, part);
            }
            6 => {
                let from = self.below(other.len());
                let part = &other[from..(from + 64).min(other.len())];
                bytes.splice(at..end.max(at), part.iter().copied());
            }
            7 => {
                let value = self.next() as u8;
                bytes.splice(at..at, [value; 3]);
            }
            // A number in text.
            _ => {
                let place = bytes.iter().skip(at).position(u8::is_ascii_digit);
                if let Some(place) = place {
                    let text = EDGES[self.below(EDGES.len())].to_string();
                    bytes.splice(at + place..=at + place, text.bytes());
                }
            }
        }
    }
}
