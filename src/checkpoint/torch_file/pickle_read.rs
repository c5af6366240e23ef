//! A restricted reader of the pickle language (protocol 2, what `torch.save`
//! emits, and 3 to 5, which it can be asked for). It never looks a global up: names
//! on the allow-list have their meaning here, in Rust, and every other name only
//! makes an opaque value. So do tensors that have no plain elements (sparse,
//! quantized, complex, ...): a file may hold some where nobody needs them.
//!
//! It runs in two passes. The machine here executes the opcodes over an arena of
//! nodes, where a list or dict that is filled after it was memoized, or shared
//! many times, is one node. Then [`unfold`] makes a plain tree of the arena.
//!
//! Invariant: each opcode makes at most one node of a fixed size, so the arena is
//! bounded by the pickle's length.

use std::collections::{BTreeMap, BTreeSet};

use super::archive::Archive;
use super::numpy::{self, Scalar};
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
    let mut storages = Storages::Archive(archive);
    let part = Part::read(pickle, 0, &mut storages, file_bytes)?;
    if part.end != pickle.len() {
        let offset = part.end;
        let what = "bytes follow its end";
        return Err(ReadError::Pickle { offset, what });
    }
    Ok(part.loaded)
}

/// One pickle of a file and where it ends.
pub struct Part {
    pub loaded: Loaded,
    pub end: usize,
}

impl Part {
    /// Reads the pickle that begins at `at`, in a file of `file_bytes`.
    pub fn read<'a>(
        bytes: &'a [u8],
        at: usize,
        storages: &mut Storages<'_, 'a>,
        file_bytes: usize,
    ) -> Result<Part, ReadError> {
        let mut machine = Machine {
            storages,
            input: Input { bytes, at },
            start: at,
            nodes: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: BTreeMap::new(),
            foreign: BTreeSet::new(),
        };
        let root = machine.run()?;
        let end = machine.input.at;
        let value = unfold::unfold(&machine.nodes, root, end - at, file_bytes)?;
        let foreign = machine.foreign.into_iter().collect();
        let loaded = Loaded { value, foreign };
        Ok(Part { loaded, end })
    }
}

/// Where the bytes of tensors are.
pub enum Storages<'m, 'a> {
    /// In records beside the pickle.
    Archive(&'m Archive<'a>),
    /// Not known yet: what the pickle asks for is noted with the bytes of an element,
    /// and each tensor is `None`.
    Wanted(BTreeMap<String, usize>),
    /// By their key.
    Known(&'m BTreeMap<String, &'a [u8]>),
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
    Bytes(&'a [u8]),
    /// Bytes as protocol 2 writes them: text whose characters are the bytes.
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
    /// What calling a global would have made.
    Made(Global<'a>),
    /// The same, with its attributes: a dict.
    Object(Global<'a>, Id),
    /// A `numpy.dtype` by its code, such as `f8`.
    NumpyDType(&'a str),
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
    /// Elements that no tensor here has, and functions that make other than dense
    /// tensors: `sparse`, `complex64`.
    Unusual(&'a str),
    /// `_rebuild_tensor_v3`: of a type without a storage class of its own.
    RebuildUntyped,
    RebuildWithState,
    RebuildFromType,
    DefaultDict,
    /// `_codecs.encode`: bytes.
    Encode,
    NumpyDType,
    NumpyScalar,
    /// Types of Python itself that mean nothing here: `set`, `complex`.
    Builtin(&'a str),
    Foreign(&'a str, &'a str),
}

impl<'a> Global<'a> {
    fn resolve(module: &'a str, name: &'a str) -> Self {
        let storage = DType::ALL.iter().find(|d| d.storage_class() == name);
        match (module, name, storage) {
            ("collections", "OrderedDict", _) => Self::OrderedDict,
            ("collections", "defaultdict", _) => Self::DefaultDict,
            ("_codecs", "encode", _) => Self::Encode,
            ("builtins" | "__builtin__", name, _) if BUILTINS.contains(&name) => {
                Self::Builtin(name)
            }
            ("numpy", "dtype", _) => Self::NumpyDType,
            ("numpy._core.multiarray" | "numpy.core.multiarray", "scalar", _) => Self::NumpyScalar,
            ("torch._utils", "_rebuild_tensor_v2", _) => Self::RebuildTensor,
            ("torch._utils", "_rebuild_tensor_v3", _) => Self::RebuildUntyped,
            ("torch._utils", "_rebuild_parameter", _) => Self::RebuildParameter,
            ("torch._utils", "_rebuild_parameter_with_state", _) => Self::RebuildWithState,
            ("torch._tensor", "_rebuild_from_type_v2", _) => Self::RebuildFromType,
            ("torch._utils", name, _) if unusual_maker(name).is_some() => {
                Self::Unusual(unusual_maker(name).unwrap_or(name))
            }
            ("torch.serialization", "_get_layout", _) => Self::Builtin("torch.layout"),
            ("torch.storage", "UntypedStorage", _) => Self::Unusual("untyped"),
            ("torch", "Size", _) => Self::Size,
            ("torch", "device", _) => Self::Device,
            ("torch", "Tensor", _) => Self::DTypeName("Tensor"),
            ("torch", _, Some(&dtype)) => Self::Storage(dtype),
            ("torch", name, None) if name.ends_with("Storage") => Self::Unusual(element(name)),
            ("torch", name, None) if is_constant(name) => Self::DTypeName(name),
            _ => Self::Foreign(module, name),
        }
    }

    /// Bytes of an element of a storage class.
    fn width(self) -> Option<usize> {
        if let Self::Storage(dtype) = self {
            return Some(dtype.size());
        }
        let Self::Unusual(kind) = self else {
            return None;
        };
        match kind {
            "untyped" | "qint8" | "quint8" | "quint4x2" | "quint2x4" => Some(1),
            "qint32" => Some(4),
            "complex64" => Some(8),
            "complex128" => Some(16),
            _ => None,
        }
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
            Self::Unusual(kind) => format!("{kind} tensor"),
            Self::RebuildUntyped => "torch._utils._rebuild_tensor_v3".to_owned(),
            Self::RebuildWithState => "torch._utils._rebuild_parameter_with_state".to_owned(),
            Self::RebuildFromType => "torch._tensor._rebuild_from_type_v2".to_owned(),
            Self::DefaultDict => "collections.defaultdict".to_owned(),
            Self::Encode => "_codecs.encode".to_owned(),
            Self::NumpyDType => "numpy.dtype".to_owned(),
            Self::NumpyScalar => "numpy scalar".to_owned(),
            Self::Builtin(name) => name.to_owned(),
            Self::Foreign(module, name) => format!("{module}.{name}"),
        }
    }
}

/// Python's own types that a config may hold.
const BUILTINS: [&str; 8] = [
    "set",
    "frozenset",
    "complex",
    "bytearray",
    "slice",
    "range",
    "dict",
    "list",
];

/// PyTorch's dtypes, quantization schemes and layouts: constants, of which only the
/// name matters. A word and digits, such as `float8_e5m2`, is a dtype.
fn is_constant(name: &str) -> bool {
    const NAMES: [&str; 8] = [
        "bool",
        "strided",
        "sparse_coo",
        "sparse_csr",
        "per_tensor_affine",
        "per_channel_affine",
        "preserve_format",
        "contiguous_format",
    ];
    let word = name.trim_start_matches(|c: char| c.is_ascii_lowercase());
    let numbered = word.starts_with(|c: char| c.is_ascii_digit());
    let kind = name.strip_suffix(word).unwrap_or_default();
    let kinds = [
        "float", "bfloat", "int", "uint", "complex", "qint", "quint", "bits",
    ];
    NAMES.contains(&name) || (numbered && kinds.contains(&kind))
}

/// Functions of `torch._utils` that make tensors without plain elements.
fn unusual_maker(function: &str) -> Option<&'static str> {
    match function {
        "_rebuild_sparse_tensor" | "_rebuild_sparse_csr_tensor" => Some("sparse"),
        "_rebuild_qtensor" => Some("quantized"),
        "_rebuild_nested_tensor" => Some("nested"),
        "_rebuild_meta_tensor_no_storage" => Some("meta"),
        "_rebuild_wrapper_subclass" => Some("subclassed"),
        "_rebuild_device_tensor_from_numpy" | "_rebuild_device_tensor_from_cpu_tensor" => {
            Some("device")
        }
        _ => None,
    }
}

/// What a storage class holds, as PyTorch names the type.
fn element(storage: &str) -> &str {
    match storage {
        "ComplexFloatStorage" => "complex64",
        "ComplexDoubleStorage" => "complex128",
        "QInt8Storage" => "qint8",
        "QUInt8Storage" => "quint8",
        "QInt32Storage" => "qint32",
        "QUInt4x2Storage" => "quint4x2",
        "QUInt2x4Storage" => "quint2x4",
        other => other,
    }
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

    /// A length of eight bytes.
    fn length(&mut self) -> Result<usize, ReadError> {
        let length = self.array().map(u64::from_le_bytes)?;
        usize::try_from(length).map_err(|_| self.fault("it breaks off"))
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

/// The opcodes of protocols 2 to 5, named as in Python's `pickletools`.
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
    pub const BINBYTES: u8 = b'B';
    pub const SHORT_BINBYTES: u8 = b'C';
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
    pub const LONG4: u8 = 0x8b;
    pub const SHORT_BINUNICODE: u8 = 0x8c;
    pub const BINUNICODE8: u8 = 0x8d;
    pub const BINBYTES8: u8 = 0x8e;
    pub const EMPTY_SET: u8 = 0x8f;
    pub const ADDITEMS: u8 = 0x90;
    pub const FROZENSET: u8 = 0x91;
    pub const NEWOBJ_EX: u8 = 0x92;
    pub const STACK_GLOBAL: u8 = 0x93;
    pub const MEMOIZE: u8 = 0x94;
    pub const FRAME: u8 = 0x95;
    pub const BYTEARRAY8: u8 = 0x96;
}

struct Machine<'s, 'm, 'a> {
    storages: &'s mut Storages<'m, 'a>,
    input: Input<'a>,
    /// Where the pickle begins.
    start: usize,
    nodes: Vec<Node<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack at which a `MARK` was set.
    marks: Vec<usize>,
    memo: BTreeMap<u32, Id>,
    foreign: BTreeSet<String>,
}

impl<'a> Machine<'_, '_, 'a> {
    /// Executes up to `STOP` and returns the root.
    fn run(&mut self) -> Result<Id, ReadError> {
        if self.input.byte()? != op::PROTO {
            return Err(ReadError::unsupported(
                "a pickle of protocol 0 or 1; 2 to 5 are known",
            ));
        }
        let protocol = self.input.byte()?;
        if !(2..=5).contains(&protocol) {
            return Err(ReadError::unsupported(format!(
                "a pickle of protocol {protocol}; 2 to 5 are known"
            )));
        }
        loop {
            if self.input.at - self.start > PICKLE_BYTES_MAX {
                return Err(ReadError::Limit {
                    what: "the size of the pickle in bytes",
                    limit: PICKLE_BYTES_MAX as u64,
                });
            }
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
            op::BININT | op::BININT1 | op::BININT2 | op::LONG1 | op::LONG4 => self.integer(opcode),
            op::BINFLOAT => {
                let value = f64::from_be_bytes(self.input.array()?);
                self.push(Node::Float(value))
            }
            op::BINUNICODE | op::SHORT_BINUNICODE | op::BINUNICODE8 => {
                let length = match opcode {
                    op::BINUNICODE => self.input.u32()? as usize,
                    op::SHORT_BINUNICODE => usize::from(self.input.byte()?),
                    _ => self.input.length()?,
                };
                let text = self.input.text(length)?;
                self.push(Node::Str(text))
            }
            op::BINBYTES | op::SHORT_BINBYTES | op::BINBYTES8 | op::BYTEARRAY8 => {
                let length = match opcode {
                    op::BINBYTES => self.input.u32()? as usize,
                    op::SHORT_BINBYTES => usize::from(self.input.byte()?),
                    _ => self.input.length()?,
                };
                let bytes = self.input.take(length)?;
                self.push(Node::Bytes(bytes))
            }
            op::EMPTY_SET => self.push(Node::Made(Global::Builtin("set"))),
            op::ADDITEMS => {
                self.pop_to_mark()?;
                self.top().map(drop)
            }
            op::FROZENSET => {
                self.pop_to_mark()?;
                self.push(Node::Made(Global::Builtin("frozenset")))
            }
            // Only a hint how much to read at once.
            op::FRAME => self.input.length().map(drop),
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
            op::MEMOIZE => {
                let top = self.top()?;
                let index = u32::try_from(self.memo.len());
                let index = index.map_err(|_| self.input.fault("it stores too many values"))?;
                self.memo.insert(index, top);
                Ok(())
            }
            op::GLOBAL => {
                let module = self.input.line()?;
                let name = self.input.line()?;
                self.global(module, name)
            }
            op::STACK_GLOBAL => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Node::Str(module), Node::Str(name)) = (self.node(module), self.node(name))
                else {
                    return Err(self.input.fault("a global has no name"));
                };
                self.global(module, name)
            }
            op::BINPERSID => self.storage(),
            op::REDUCE | op::NEWOBJ => self.reduce(),
            op::NEWOBJ_EX => {
                self.pop()?; // arguments by name
                self.reduce()
            }
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
                let length = if opcode == op::LONG4 {
                    self.input.u32()? as usize
                } else {
                    usize::from(self.input.byte()?)
                };
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
        if let Some(Node::Made(_) | Node::Object(..)) = self.nodes.get(target) {
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
        if let Some(Node::Made(_) | Node::Object(..)) = self.nodes.get(target) {
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

    fn global(&mut self, module: &'a str, name: &'a str) -> Result<(), ReadError> {
        let global = Global::resolve(module, name);
        if let Global::Foreign(..) = global {
            self.foreign.insert(global.class());
        }
        self.push(Node::Global(global))
    }

    /// `("storage", class, key, location, elements)`: the record `data/<key>`.
    /// The location (`cpu`, `cuda:0`) is of no interest: bytes are bytes. The old
    /// format has a sixth part, a view on another storage.
    fn storage(&mut self) -> Result<(), ReadError> {
        let id = self.pop()?;
        let Node::Tuple(parts) = self.node(id) else {
            return Err(self.input.fault("a persistent id is no tuple"));
        };
        let (tag, class, key, elements) = match parts.as_slice() {
            // The source of a whole module stands behind it in the old format.
            [tag, object, ..] if matches!(self.node(*tag), Node::Str("module")) => {
                self.stack.push(*object);
                return Ok(());
            }
            [tag, class, key, _location, elements] => (tag, class, key, elements),
            [tag, class, key, _location, elements, view] => {
                if !matches!(self.node(*view), Node::None) {
                    return Err(ReadError::unsupported(
                        "a storage that is a view of another",
                    ));
                }
                (tag, class, key, elements)
            }
            _ => return Err(self.input.fault("a persistent id has not five parts")),
        };
        let (Node::Str("storage"), Node::Global(class), Node::Str(key), Node::Int(elements)) = (
            self.node(*tag),
            self.node(*class),
            self.node(*key),
            self.node(*elements),
        ) else {
            return Err(self.input.fault("a persistent id names no storage"));
        };
        let (class, key, elements) = (*class, *key, *elements);
        if key.len() > STORAGE_KEY_BYTES_MAX {
            return Err(self.input.fault("a storage's name is too long"));
        }
        if let Storages::Wanted(wanted) = &mut self.storages {
            let width = class.width();
            let width = width.ok_or_else(|| {
                ReadError::unsupported(format!("a {} in the old format", class.class()))
            })?;
            if *wanted.entry(key.to_owned()).or_insert(width) != width {
                return Err(self.input.fault("a storage has two types"));
            }
        }
        if let Global::Unusual(_) = class {
            return self.push(Node::Made(class));
        }
        let Global::Storage(dtype) = class else {
            return Err(self.input.fault("a persistent id names no storage"));
        };
        let record = format!("data/{key}");
        let bytes = match self.storages {
            Storages::Archive(archive) => archive.required(&record)?,
            Storages::Known(known) => {
                let bytes = known.get(key).copied();
                bytes.ok_or(ReadError::MissingRecord {
                    record: record.clone(),
                })?
            }
            Storages::Wanted(_) => {
                return self.push(Node::Storage(Storage { dtype, bytes: &[] }));
            }
        };
        let size = usize::try_from(elements).ok();
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
            Global::DefaultDict => Node::Dict {
                ordered: false,
                entries: Vec::new(),
            },
            Global::RebuildTensor => self.tensor(arguments)?,
            Global::RebuildUntyped => Node::Made(self.untyped(arguments)),
            Global::RebuildFromType => self.retyped(arguments)?,
            // A parameter is its data, and a `torch.Size` is its tuple.
            Global::RebuildParameter | Global::RebuildWithState => {
                return self.same(first, |n| {
                    matches!(
                        n,
                        Node::Tensor(_) | Node::Made(Global::Unusual(_)) | Node::None
                    )
                });
            }
            Global::Size => return self.same(first, |n| matches!(n, Node::Tuple(_))),
            Global::Encode => match first.map(|text| self.node(text)) {
                Some(Node::Str(text)) => Node::Latin1(text),
                _ => return fault("bytes are made of what is no text"),
            },
            Global::NumpyDType => match first.map(|code| self.node(code)) {
                Some(Node::Str(code)) => Node::NumpyDType(code),
                _ => Node::Made(callee),
            },
            Global::NumpyScalar => self.numpy_scalar(arguments),
            Global::Device | Global::Unusual(_) | Global::Builtin(_) | Global::Foreign(..) => {
                Node::Made(callee)
            }
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
    fn tensor(&self, arguments: &[Id]) -> Result<Node<'a>, ReadError> {
        let (storage, offset, shape, strides) = match arguments {
            [storage, offset, shape, strides, _requires_grad, _hooks] => {
                (storage, offset, shape, strides)
            }
            // With metadata: its elements stand conjugated or negated in the storage.
            [_, _, _, _, _, _, _] => {
                return Ok(Node::Made(Global::Unusual("lazily conjugated or negated")));
            }
            _ => return Err(self.input.fault("a tensor has the wrong arguments")),
        };
        let (storage, Some(offset)) = (self.node(*storage), size_of(&self.nodes, *offset)) else {
            return Err(self.input.fault("a tensor has no storage or no offset"));
        };
        if let Node::Made(unusual @ Global::Unusual(_)) = storage {
            return Ok(Node::Made(*unusual));
        }
        let &Node::Storage(storage) = storage else {
            return Err(self.input.fault("a tensor has no storage or no offset"));
        };
        if matches!(self.storages, Storages::Wanted(_)) {
            return Ok(Node::None);
        }
        let tensor = TensorNode {
            storage,
            offset,
            shape: *shape,
            strides: *strides,
        };
        View::new(&self.nodes, &tensor)?.check()?;
        Ok(Node::Tensor(tensor))
    }

    /// `(storage, offset, size, stride, requires_grad, backward_hooks, dtype, ..)`.
    fn untyped(&self, arguments: &[Id]) -> Global<'a> {
        match arguments.get(6).map(|&dtype| self.node(dtype)) {
            Some(Node::Global(Global::DTypeName(dtype))) => Global::Unusual(dtype),
            _ => Global::Unusual("untyped"),
        }
    }

    /// `(function, type, arguments, state)`: a tensor with attributes, or one of a
    /// subclass, which stays closed.
    fn retyped(&self, arguments: &[Id]) -> Result<Node<'a>, ReadError> {
        let [function, class, arguments, ..] = arguments else {
            return Err(self.input.fault("a tensor has the wrong arguments"));
        };
        match (
            self.node(*function),
            self.node(*class),
            self.node(*arguments),
        ) {
            (
                Node::Global(Global::RebuildTensor),
                Node::Global(Global::DTypeName("Tensor")),
                Node::Tuple(arguments),
            ) => self.tensor(arguments),
            _ => Ok(Node::Made(Global::Unusual("subclassed"))),
        }
    }

    /// `(dtype, bytes)`: a number, unless its type has none here.
    fn numpy_scalar(&self, arguments: &[Id]) -> Node<'a> {
        let scalar = match arguments {
            [dtype, bytes] => match (self.node(*dtype), self.node(*bytes)) {
                (Node::NumpyDType(code), Node::Bytes(bytes)) => numpy::scalar(code, bytes),
                (Node::NumpyDType(code), Node::Latin1(text)) => {
                    numpy::latin1(text).and_then(|bytes| numpy::scalar(code, &bytes))
                }
                _ => None,
            },
            _ => None,
        };
        match scalar {
            Some(Scalar::Bool(value)) => Node::Bool(value),
            Some(Scalar::Int(value)) => Node::Int(value),
            Some(Scalar::Float(value)) => Node::Float(value),
            None => Node::Made(Global::NumpyScalar),
        }
    }

    /// Attributes of an object. Those of a foreign one may be a config; the `_metadata`
    /// (module versions) of a `state_dict()` is of no interest.
    fn build_state(&mut self) -> Result<(), ReadError> {
        let state = self.pop()?;
        let target = self.top()?;
        if let Node::NumpyDType(_) = self.node(target) {
            self.numpy_order(target, state);
            return Ok(());
        }
        if let Node::Made(class @ Global::Foreign(..)) = *self.node(target)
            && let Node::Dict { .. } = self.node(state)
        {
            self.replace(target, Node::Object(class, state));
            return Ok(());
        }
        let takes_state = matches!(
            self.node(target),
            Node::Made(_) | Node::Object(..) | Node::Dict { ordered: true, .. } | Node::None
        );
        if takes_state {
            Ok(())
        } else {
            Err(self.input.fault("it sets attributes of what has none"))
        }
    }

    /// A dtype's state is `(version, byte order, ..)`; only little-endian is read.
    fn numpy_order(&mut self, dtype: Id, state: Id) {
        let order = if let Node::Tuple(parts) = self.node(state) {
            parts.get(1).map(|&order| self.node(order))
        } else {
            None
        };
        if !matches!(order, Some(Node::Str("<" | "|" | "="))) {
            self.replace(dtype, Node::Made(Global::NumpyDType));
        }
    }

    fn replace(&mut self, id: Id, node: Node<'a>) {
        if let Some(place) = self.nodes.get_mut(id as usize) {
            *place = node;
        }
    }
}
