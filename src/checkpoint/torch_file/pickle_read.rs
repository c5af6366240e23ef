//! A restricted reader of the pickle language (protocol 2, what `torch.save`
//! emits). It never looks a global up: names on the allow-list have their meaning
//! here, in Rust, and every other name only makes an opaque value.
//!
//! It runs in two passes. The machine here executes the opcodes over an arena of
//! nodes, where a list or dict that is filled after it was memoized, or shared
//! many times, is one node. Then [`unfold`] makes a plain tree of the arena.
//!
//! Invariant: each opcode makes at most one node of a fixed size, so the arena is
//! bounded by the pickle's length.

use std::collections::{BTreeMap, BTreeSet};

use super::archive::Archive;
use super::unfold::{self, View, size_of};
use super::value::bytes_of;
use super::{DType, Loaded, ReadError};

/// A pickle holds names and numbers, no tensor data: 4 MiB describe some 50,000
/// tensors. Arena and tree together take up to 160 times as much (measured).
const PICKLE_BYTES_MAX: usize = 4 << 20;
/// PyTorch counts storages: `data/0`, `data/1`.
const STORAGE_KEY_BYTES_MAX: usize = 64;

/// Reads `data.pkl` of `archive`, which stands in a file of `file_bytes`.
pub fn unpickle(archive: &Archive<'_>, file_bytes: usize) -> Result<Loaded, ReadError> {
    let pickle = archive.required("data.pkl")?;
    if pickle.len() > PICKLE_BYTES_MAX {
        let limit = PICKLE_BYTES_MAX as u64;
        return Err(ReadError::Limit {
            what: "the size of the pickle in bytes",
            limit,
        });
    }
    let mut machine = Machine {
        archive,
        input: Input {
            bytes: pickle,
            at: 0,
        },
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: BTreeMap::new(),
        foreign: BTreeSet::new(),
    };
    let root = machine.run()?;
    let value = unfold::unfold(&machine.nodes, root, pickle.len(), file_bytes)?;
    let foreign = machine.foreign.into_iter().collect();
    Ok(Loaded { value, foreign })
}

/// Place of a node in the arena.
pub type Id = u32;

pub enum Node<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than 64 bits: PyTorch writes none that matters here.
    WideInt,
    Float(f64),
    Str(&'a str),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Dict {
        ordered: bool,
        entries: Vec<(Id, Id)>,
    },
    Global(Global<'a>),
    Storage(Storage<'a>),
    Tensor(TensorNode<'a>),
    /// What calling a global would have made.
    Made(Global<'a>),
}

/// A global that the pickle names, by the meaning it has here.
#[derive(Clone, Copy)]
pub enum Global<'a> {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Size,
    Device,
    /// `torch.float32` and the like: a constant.
    DTypeName(&'a str),
    Storage(DType),
    Foreign(&'a str, &'a str),
}

impl<'a> Global<'a> {
    fn resolve(module: &'a str, name: &'a str) -> Result<Self, ReadError> {
        let storage = DType::ALL.iter().find(|d| d.storage_class() == name);
        Ok(match (module, name, storage) {
            ("collections", "OrderedDict", _) => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2", _) => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter", _) => Self::RebuildParameter,
            ("torch", "Size", _) => Self::Size,
            ("torch", "device", _) => Self::Device,
            ("torch", _, Some(&dtype)) => Self::Storage(dtype),
            ("torch", name, None) if name.ends_with("Storage") => {
                return Err(ReadError::unsupported(format!("tensors of `torch.{name}`")));
            }
            ("torch", name, None) if DTYPE_NAMES.contains(&name) => Self::DTypeName(name),
            _ => Self::Foreign(module, name),
        })
    }

    pub fn class(self) -> String {
        match self {
            Self::OrderedDict => "collections.OrderedDict".to_owned(),
            Self::RebuildTensor => "torch._utils._rebuild_tensor_v2".to_owned(),
            Self::RebuildParameter => "torch._utils._rebuild_parameter".to_owned(),
            Self::Size => "torch.Size".to_owned(),
            Self::Device => "torch.device".to_owned(),
            Self::DTypeName(name) => format!("torch.{name}"),
            Self::Storage(dtype) => format!("torch.{}", dtype.storage_class()),
            Self::Foreign(module, name) => format!("{module}.{name}"),
        }
    }
}

/// PyTorch's dtypes, as names only; those that tensors here can have and the rest.
const DTYPE_NAMES: [&str; 13] = [
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "bool",
    "complex32",
    "complex64",
    "complex128",
];

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

/// The pickle's bytes, read from front to back.
struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn fault(&self, what: &'static str) -> ReadError {
        let offset = self.at;
        ReadError::Pickle { offset, what }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], ReadError> {
        let end = self.at.checked_add(count);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| self.fault("it breaks off"))?;
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ReadError> {
        let taken = self.take(N)?.first_chunk::<N>().copied();
        taken.ok_or_else(|| self.fault("it breaks off"))
    }

    fn byte(&mut self) -> Result<u8, ReadError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32, ReadError> {
        self.array().map(u32::from_le_bytes)
    }

    fn text(&mut self, count: usize) -> Result<&'a str, ReadError> {
        let bytes = self.take(count)?;
        std::str::from_utf8(bytes).map_err(|_| self.fault("a string is not UTF-8"))
    }

    /// Up to a line feed, which is taken and not returned.
    fn line(&mut self) -> Result<&'a str, ReadError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|&byte| byte == b'\n');
        let length = length.ok_or_else(|| self.fault("a name does not end"))?;
        let line = self.text(length)?;
        self.at += 1;
        Ok(line)
    }
}

/// The opcodes of protocol 2, named as in Python's `pickletools`.
mod op {
    pub const MARK: u8 = b'(';
    pub const STOP: u8 = b'.';
    pub const POP: u8 = b'0';
    pub const POP_MARK: u8 = b'1';
    pub const DUP: u8 = b'2';
    pub const BINFLOAT: u8 = b'G';
    pub const BININT: u8 = b'J';
    pub const BININT1: u8 = b'K';
    pub const BININT2: u8 = b'M';
    pub const NONE: u8 = b'N';
    pub const BINPERSID: u8 = b'Q';
    pub const REDUCE: u8 = b'R';
    pub const BINUNICODE: u8 = b'X';
    pub const EMPTY_LIST: u8 = b']';
    pub const APPEND: u8 = b'a';
    pub const BUILD: u8 = b'b';
    pub const GLOBAL: u8 = b'c';
    pub const APPENDS: u8 = b'e';
    pub const BINGET: u8 = b'h';
    pub const LONG_BINGET: u8 = b'j';
    pub const BINPUT: u8 = b'q';
    pub const LONG_BINPUT: u8 = b'r';
    pub const SETITEM: u8 = b's';
    pub const TUPLE: u8 = b't';
    pub const SETITEMS: u8 = b'u';
    pub const EMPTY_TUPLE: u8 = b')';
    pub const EMPTY_DICT: u8 = b'}';
    pub const PROTO: u8 = 0x80;
    pub const NEWOBJ: u8 = 0x81;
    pub const TUPLE1: u8 = 0x85;
    pub const TUPLE2: u8 = 0x86;
    pub const TUPLE3: u8 = 0x87;
    pub const NEWTRUE: u8 = 0x88;
    pub const NEWFALSE: u8 = 0x89;
    pub const LONG1: u8 = 0x8a;
}

struct Machine<'m, 'a> {
    archive: &'m Archive<'a>,
    input: Input<'a>,
    nodes: Vec<Node<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack at which a `MARK` was set.
    marks: Vec<usize>,
    memo: BTreeMap<u32, Id>,
    foreign: BTreeSet<String>,
}

impl<'a> Machine<'_, 'a> {
    /// Executes up to `STOP` and returns the root.
    fn run(&mut self) -> Result<Id, ReadError> {
        if self.input.byte()? != op::PROTO || self.input.byte()? != 2 {
            return Err(ReadError::unsupported(
                "a pickle of another protocol than 2",
            ));
        }
        loop {
            let offset = self.input.at;
            let opcode = self.input.byte()?;
            if opcode == op::STOP {
                break;
            }
            self.step(opcode, offset)?;
        }
        let root = self.pop()?;
        if !self.stack.is_empty() || !self.marks.is_empty() {
            return Err(self.input.fault("it stops with values left over"));
        }
        if self.input.at != self.input.bytes.len() {
            return Err(self.input.fault("bytes follow its end"));
        }
        Ok(root)
    }

    fn step(&mut self, opcode: u8, offset: usize) -> Result<(), ReadError> {
        match opcode {
            op::MARK => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            op::POP => self.pop().map(drop),
            op::POP_MARK => self.pop_to_mark().map(drop),
            op::DUP => {
                let top = self.top()?;
                self.stack.push(top);
                Ok(())
            }
            op::NONE => self.push(Node::None),
            op::NEWTRUE => self.push(Node::Bool(true)),
            op::NEWFALSE => self.push(Node::Bool(false)),
            op::BININT | op::BININT1 | op::BININT2 | op::LONG1 => self.integer(opcode),
            op::BINFLOAT => {
                let value = f64::from_be_bytes(self.input.array()?);
                self.push(Node::Float(value))
            }
            op::BINUNICODE => {
                let length = self.input.u32()? as usize;
                let text = self.input.text(length)?;
                self.push(Node::Str(text))
            }
            op::EMPTY_LIST => self.push(Node::List(Vec::new())),
            op::EMPTY_DICT => self.push(Node::Dict {
                ordered: false,
                entries: Vec::new(),
            }),
            op::EMPTY_TUPLE => self.tuple(0),
            op::TUPLE1 => self.tuple(1),
            op::TUPLE2 => self.tuple(2),
            op::TUPLE3 => self.tuple(3),
            op::TUPLE => {
                let items = self.pop_to_mark()?;
                self.push(Node::Tuple(items))
            }
            op::APPEND => {
                let item = self.pop()?;
                self.append(vec![item])
            }
            op::APPENDS => {
                let items = self.pop_to_mark()?;
                self.append(items)
            }
            op::SETITEM => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(&[key, value])
            }
            op::SETITEMS => {
                let items = self.pop_to_mark()?;
                self.set_items(&items)
            }
            op::BINPUT | op::LONG_BINPUT | op::BINGET | op::LONG_BINGET => self.memo(opcode),
            op::GLOBAL => self.global(),
            op::BINPERSID => self.storage(),
            op::REDUCE | op::NEWOBJ => self.reduce(),
            op::BUILD => self.build_state(),
            _ => Err(ReadError::unsupported(format!(
                "pickle opcode {opcode:#04x} at byte {offset}"
            ))),
        }
    }

    fn push(&mut self, node: Node<'a>) -> Result<(), ReadError> {
        // The pickle is shorter than 2^32 bytes, and each opcode pushes once.
        let id = u32::try_from(self.nodes.len());
        let id = id.map_err(|_| self.input.fault("it makes too many values"))?;
        self.nodes.push(node);
        self.stack.push(id);
        Ok(())
    }

    /// The lowest height of the stack that may be popped to.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Id, ReadError> {
        let above = self.stack.get(self.floor()..);
        let top = above.and_then(|above| above.last()).copied();
        top.ok_or_else(|| self.input.fault("it takes a value from an empty stack"))
    }

    fn pop(&mut self) -> Result<Id, ReadError> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, ReadError> {
        let mark = self.marks.pop();
        let mark = mark.ok_or_else(|| self.input.fault("a mark is missing"))?;
        // `pop` stops at the last mark, so the stack is at least as high.
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn node(&self, id: Id) -> &Node<'a> {
        // Ids come from `push` only, and no node is ever removed.
        self.nodes.get(id as usize).unwrap_or(&Node::None)
    }

    fn integer(&mut self, opcode: u8) -> Result<(), ReadError> {
        let value = match opcode {
            op::BININT => i64::from(i32::from_le_bytes(self.input.array()?)),
            op::BININT1 => i64::from(self.input.byte()?),
            op::BININT2 => i64::from(u16::from_le_bytes(self.input.array()?)),
            _ => {
                let length = usize::from(self.input.byte()?);
                let bytes = self.input.take(length)?;
                if length > 8 {
                    return self.push(Node::WideInt);
                }
                // Two's complement: the sign of the last byte fills the rest.
                let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
                let mut wide = [if negative { 0xFF } else { 0 }; 8];
                wide.iter_mut()
                    .zip(bytes)
                    .for_each(|(to, from)| *to = *from);
                i64::from_le_bytes(wide)
            }
        };
        self.push(Node::Int(value))
    }

    fn tuple(&mut self, count: usize) -> Result<(), ReadError> {
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(self.pop()?);
        }
        items.reverse();
        self.push(Node::Tuple(items))
    }

    /// Appends to the list at the top; what a foreign list holds is dropped.
    fn append(&mut self, items: Vec<Id>) -> Result<(), ReadError> {
        let target = self.top()? as usize;
        if let Some(Node::List(list)) = self.nodes.get_mut(target) {
            list.extend(items);
            return Ok(());
        }
        if let Some(Node::Made(_)) = self.nodes.get(target) {
            return Ok(());
        }
        Err(self.input.fault("it appends to what is no list"))
    }

    /// Fills the dict at the top; what a foreign dict holds is dropped.
    fn set_items(&mut self, items: &[Id]) -> Result<(), ReadError> {
        let (pairs, rest) = items.as_chunks::<2>();
        let target = self.top()? as usize;
        if !rest.is_empty() {
            return Err(self.input.fault("a key has no value"));
        }
        if let Some(Node::Dict { entries, .. }) = self.nodes.get_mut(target) {
            entries.extend(pairs.iter().map(|&[key, value]| (key, value)));
            return Ok(());
        }
        if let Some(Node::Made(_)) = self.nodes.get(target) {
            return Ok(());
        }
        Err(self.input.fault("it sets items of what is no dict"))
    }

    fn memo(&mut self, opcode: u8) -> Result<(), ReadError> {
        let short = opcode == op::BINPUT || opcode == op::BINGET;
        let index = if short {
            u32::from(self.input.byte()?)
        } else {
            self.input.u32()?
        };
        if opcode == op::BINPUT || opcode == op::LONG_BINPUT {
            let top = self.top()?;
            self.memo.insert(index, top);
            return Ok(());
        }
        let id = self.memo.get(&index).copied();
        let id = id.ok_or_else(|| self.input.fault("it recalls a value it never stored"))?;
        self.stack.push(id);
        Ok(())
    }

    fn global(&mut self) -> Result<(), ReadError> {
        let module = self.input.line()?;
        let name = self.input.line()?;
        let global = Global::resolve(module, name)?;
        if let Global::Foreign(..) = global {
            self.foreign.insert(global.class());
        }
        self.push(Node::Global(global))
    }

    /// `("storage", class, key, location, elements)`: the record `data/<key>`.
    /// The location (`cpu`, `cuda:0`) is of no interest: bytes are bytes.
    fn storage(&mut self) -> Result<(), ReadError> {
        let id = self.pop()?;
        let Node::Tuple(parts) = self.node(id) else {
            return Err(self.input.fault("a persistent id is no tuple"));
        };
        let [tag, class, key, _location, elements] = parts.as_slice() else {
            return Err(self.input.fault("a persistent id has not five parts"));
        };
        let (
            Node::Str("storage"),
            Node::Global(Global::Storage(dtype)),
            Node::Str(key),
            Node::Int(elements),
        ) = (
            self.node(*tag),
            self.node(*class),
            self.node(*key),
            self.node(*elements),
        )
        else {
            return Err(self.input.fault("a persistent id names no storage"));
        };
        if key.len() > STORAGE_KEY_BYTES_MAX {
            return Err(self.input.fault("a storage's name is too long"));
        }
        let (dtype, record) = (*dtype, format!("data/{key}"));
        let bytes = self.archive.required(&record)?;
        let size = usize::try_from(*elements).ok();
        let size = size.and_then(|elements| bytes_of(dtype, &[elements]));
        if size != Some(bytes.len()) {
            return Err(ReadError::Tensor {
                what: format!(
                    "record `{record}` has {} bytes, and the pickle says {elements} elements of {}",
                    bytes.len(),
                    dtype.name()
                ),
            });
        }
        self.push(Node::Storage(Storage { dtype, bytes }))
    }

    /// `REDUCE` calls a global with a tuple; `NEWOBJ` makes an instance of it.
    fn reduce(&mut self) -> Result<(), ReadError> {
        let arguments = self.pop()?;
        let callee = self.pop()?;
        let Node::Tuple(arguments) = self.node(arguments) else {
            return Err(self.input.fault("a call has no tuple of arguments"));
        };
        let (Node::Global(callee) | Node::Made(callee)) = self.node(callee) else {
            return Err(self.input.fault("it calls what is no global"));
        };
        let (callee, first) = (*callee, arguments.first().copied());
        let fault = |what| Err(self.input.fault(what));
        let made = match callee {
            Global::OrderedDict if arguments.is_empty() => Node::Dict {
                ordered: true,
                entries: Vec::new(),
            },
            Global::OrderedDict => return fault("an `OrderedDict` is made of arguments"),
            Global::RebuildTensor => Node::Tensor(self.tensor(arguments)?),
            // A parameter is its data, and a `torch.Size` is its tuple.
            Global::RebuildParameter => return self.same(first, |n| matches!(n, Node::Tensor(_))),
            Global::Size => return self.same(first, |n| matches!(n, Node::Tuple(_))),
            Global::Device | Global::Foreign(..) => Node::Made(callee),
            Global::DTypeName(_) | Global::Storage(_) => {
                return fault("it calls a global that cannot be called");
            }
        };
        self.push(made)
    }

    /// A call whose result is its first argument.
    fn same(&mut self, id: Option<Id>, fits: fn(&Node<'a>) -> bool) -> Result<(), ReadError> {
        let id = id.filter(|&id| fits(self.node(id)));
        let id = id.ok_or_else(|| self.input.fault("a call has the wrong first argument"))?;
        self.stack.push(id);
        Ok(())
    }

    /// `(storage, offset, size, stride, requires_grad, backward_hooks)`.
    fn tensor(&self, arguments: &[Id]) -> Result<TensorNode<'a>, ReadError> {
        let [storage, offset, shape, strides, _requires_grad, _hooks] = arguments else {
            return Err(ReadError::unsupported("a tensor with metadata of its own"));
        };
        let (Node::Storage(storage), Some(offset)) =
            (self.node(*storage), size_of(&self.nodes, *offset))
        else {
            return Err(self.input.fault("a tensor has no storage or no offset"));
        };
        let tensor = TensorNode {
            storage: *storage,
            offset,
            shape: *shape,
            strides: *strides,
        };
        View::new(&self.nodes, &tensor)?.check()?;
        Ok(tensor)
    }

    /// Attributes of an object: of no interest, whether foreign or the `_metadata`
    /// (module versions) of a `state_dict()`.
    fn build_state(&mut self) -> Result<(), ReadError> {
        self.pop()?;
        let target = self.top()?;
        let takes_state = matches!(
            self.node(target),
            Node::Made(_) | Node::Dict { ordered: true, .. }
        );
        if takes_state {
            Ok(())
        } else {
            Err(self.input.fault("it sets attributes of what has none"))
        }
    }
}
