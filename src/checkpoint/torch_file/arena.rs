//! The values that the pickle machine creates: nodes that refer to each other.
//!
//! A list or dict that is filled after it was memoized, or shared many times, is one
//! node. Invariant: an [`Id`] is created with its node, and nodes are never removed.

use super::global::Global;
use super::value::DType;

/// Identifies a node of an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id(u32);

/// All nodes of one pickle.
#[derive(Default)]
pub struct Arena<'a> {
    nodes: Vec<Node<'a>>,
}

impl<'a> Arena<'a> {
    /// `None` if there are too many nodes.
    pub fn push(&mut self, node: Node<'a>) -> Option<Id> {
        let id = Id(u32::try_from(self.nodes.len()).ok()?);
        self.nodes.push(node);
        Some(id)
    }

    pub fn get(&self, id: Id) -> &Node<'a> {
        self.nodes.get(id.0 as usize).unwrap_or(&Node::None)
    }

    pub fn get_mut(&mut self, id: Id) -> Option<&mut Node<'a>> {
        self.nodes.get_mut(id.0 as usize)
    }

    /// The integer at `id`, if it can be a size.
    pub fn size(&self, id: Id) -> Option<usize> {
        if let Node::Int(size) = self.get(id) {
            usize::try_from(*size).ok()
        } else {
            None
        }
    }
}

pub enum Node<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than 64 bits, whose value is never needed.
    WideInt,
    Float(f64),
    Str(&'a str),
    Bytes(&'a [u8]),
    /// Bytes in the form of protocol 2: text whose characters are the bytes.
    Latin1(&'a str),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Dict {
        ordered: bool,
        entries: Vec<(Id, Id)>,
    },
    Global(Global<'a>),
    Storage(Storage<'a>),
    Tensor(TensorNode<'a>),
    /// What calling a global would have created.
    Made(Global<'a>),
    /// The same, with its attributes, which are a dict.
    Object(Global<'a>, Id),
    /// A `numpy.dtype` by its code, such as `f8`.
    NumpyDType(&'a str),
}

#[derive(Clone, Copy)]
pub struct Storage<'a> {
    pub dtype: DType,
    pub bytes: &'a [u8],
}

/// A tensor in the arena: its storage, its offset in elements, and the tuples of
/// its sizes and strides, which many tensors may share.
#[derive(Clone, Copy)]
pub struct TensorNode<'a> {
    pub storage: Storage<'a>,
    pub offset: usize,
    pub shape: Id,
    pub strides: Id,
}
