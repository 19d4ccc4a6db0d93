//! Changes to bytes, for inputs that are nearly right.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// A change to some bytes.
#[derive(Clone, Debug)]
pub enum Change {
    /// One of them becomes this one.
    Set(Index, u8),
    /// These come in.
    Insert(Index, Vec<u8>),
    /// So many are taken out.
    Remove(Index, usize),
    /// So many are there twice.
    Repeat(Index, usize),
}

impl Change {
    /// Makes it. Nothing becomes of no bytes but what comes in.
    pub fn apply(&self, bytes: &mut Vec<u8>) {
        let len = bytes.len();
        let range = |at: &Index, count| {
            let at = at.index(len.max(1)).min(len);
            at..len.min(at + count)
        };
        match self {
            Self::Set(at, byte) if len > 0 => *at.get_mut(bytes) = *byte,
            Self::Set(..) => {}
            Self::Insert(at, new) => drop(bytes.splice(range(at, 0), new.iter().copied())),
            Self::Remove(at, count) => drop(bytes.drain(range(at, *count))),
            Self::Repeat(at, count) => {
                let range = range(at, *count);
                let again = bytes[range.clone()].to_vec();
                bytes.splice(range.end..range.end, again);
            }
        }
    }
}

/// Changes in which these words come in more often than other bytes.
pub fn changes(words: &[&[u8]]) -> impl Strategy<Value = Change> + use<> {
    let words: Vec<_> = words.iter().map(|word| word.to_vec()).collect();
    let bytes = prop_oneof![select(words), vec(any::<u8>(), 1..4)];
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (any::<Index>(), bytes).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (any::<Index>(), 1..20_usize).prop_map(|(at, len)| Change::Remove(at, len)),
        (any::<Index>(), 1..100_usize).prop_map(|(at, len)| Change::Repeat(at, len)),
    ]
}
