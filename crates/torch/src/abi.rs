//! PyTorch's stable C ABI ("LibTorch stable ABI"), loaded at run time: the only unsafe code of this crate.
//!
//! What the ABI promises (`torch/csrc/stable/c/shim.h` and `torch/csrc/inductor/aoti_torch/c/shim.h` of PyTorch 2.13), and what
//! every unsafe block here relies on:
//!
//! - A function keeps its name, signature and meaning for at least two years after the release that introduced it.
//! - Functions return 0 or, after an exception, another number. The message of the calling thread's last exception is then
//!   returned by `torch_exception_get_what_without_backtrace`, and valid until the thread's next call.
//! - A tensor handle is a pointer to a reference-counted tensor. Handles that a function returns are owned by the caller, which
//!   deletes each once. The reference counts are atomic, so a handle may be used and deleted by any thread.
//! - `torch_call_dispatcher` takes the arguments of an operator as 64-bit values, all of them, in the order of its schema. It takes
//!   ownership of the handles, lists, strings and optional values among them, and overwrites the array with the results, for
//!   which it must have space too.
//! - A value is: an integer or the bits of an f64; a bool in the low byte; a code returned by a function of the ABI for element types
//!   and memory formats; a pointer to a handle, list or string. An optional value is null, or a pointer to a value that
//!   `torch_new_stable_ivalue` allocated.
//! - A tensor "from blob" borrows memory. Here it never outlives the function that made it.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::path::Path;
use std::ptr::null_mut;
use std::sync::Arc;

use crate::Error;

type Handle = *mut c_void;
type List = *mut c_void;
type Text = *mut c_void;
type Value = u64;

/// Declares the functions that are looked up by name, and looks them up.
macro_rules! functions {
    ($($name:ident: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions of the ABI under their own names.
        #[allow(non_snake_case)]
        struct Functions { $($name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)* }

        impl Functions {
            /// # Safety
            /// `library` is PyTorch's, and stays loaded as long as the result is used.
            unsafe fn find(library: &libloading::Library) -> Result<Functions, libloading::Error> {
                Ok(Functions { $($name: unsafe { *library.get(concat!(stringify!($name), "\0").as_bytes())? },)* })
            }
        }
    };
}

functions! {
    aoti_torch_abi_version: fn() -> u64;
    aoti_torch_device_type_cpu: fn() -> i32;
    aoti_torch_device_type_cuda: fn() -> i32;
    aoti_torch_device_type_mps: fn() -> i32;
    aoti_torch_dtype_float32: fn() -> i32;
    aoti_torch_dtype_bfloat16: fn() -> i32;
    aoti_torch_dtype_int64: fn() -> i32;
    aoti_torch_dtype_uint8: fn() -> i32;
    aoti_torch_memory_format_contiguous_format: fn() -> i32;
    aoti_torch_memory_format_channels_last: fn() -> i32;
    aoti_torch_layout_strided: fn() -> i32;
    aoti_torch_empty_strided: fn(i64, *const i64, *const i64, i32, i32, i32, *mut Handle) -> i32;
    aoti_torch_create_tensor_from_blob: fn(*mut c_void, i64, *const i64, *const i64, i64, i32, i32, i32, *mut Handle) -> i32;
    aoti_torch_delete_tensor_object: fn(Handle) -> i32;
    aoti_torch_new_tensor_handle: fn(Handle, *mut Handle) -> i32;
    aoti_torch_get_numel: fn(Handle, *mut i64) -> i32;
    aoti_torch_get_dtype: fn(Handle, *mut i32) -> i32;
    aoti_torch_item_float32: fn(Handle, *mut f32) -> i32;
    aoti_torch_copy_: fn(Handle, Handle, i32) -> i32;
    aoti_torch_grad_mode_set_enabled: fn(bool);
    aoti_torch_aten_full: fn(*const i64, i64, f64, *const i32, *const i32, *const i32, i32, *const i32, *mut Handle) -> i32;
    aoti_torch_aten_narrow: fn(Handle, i64, i64, i64, *mut Handle) -> i32;
    aoti_torch_aten_pad: fn(Handle, *const i64, i64, *const c_char, *const f64, *mut Handle) -> i32;
    aoti_torch_aten_subtract_Tensor: fn(Handle, Handle, f64, *mut Handle) -> i32;
    torch_call_dispatcher: fn(*const c_char, *const c_char, *mut Value, u64) -> i32;
    torch_exception_get_what_without_backtrace: fn() -> *const c_char;
    torch_get_num_threads: fn(*mut u32) -> i32;
    torch_new_list_reserve_size: fn(usize, *mut List) -> i32;
    torch_list_push_back: fn(List, Value) -> i32;
    torch_new_stable_ivalue: fn(*mut *mut Value) -> i32;
    torch_new_string_handle: fn(*const c_char, usize, *mut Text) -> i32;
}

/// PyTorch's libraries, loaded; they stay loaded until the process ends.
pub struct Library {
    /// Never closed: unloading a library whose threads run would crash.
    _opened: ManuallyDrop<[Option<libloading::Library>; 2]>,
    functions: Functions,
    /// OpenMP's setting of the calling thread, where PyTorch's threads are OpenMP's.
    set_threads: Option<unsafe extern "C" fn(c_int)>,
    codes: Codes,
}

/// Codes of the ABI.
struct Codes {
    version: u64,
    types: [(Type, i32); 4],
    contiguous: i32,
    channels_last: i32,
    strided: i32,
    cpu: i32,
}

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// IEEE 754 single precision.
    Float32,
    /// Brain floating point.
    Bfloat16,
    /// Signed integers.
    Int64,
    /// Unsigned bytes.
    Uint8,
}

/// The order of a four-dimensional tensor's elements in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// N x C x H x W.
    Contiguous,
    /// N x H x W x C.
    ChannelsLast,
}

/// A kind of device, with the number of the device among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    kind: i32,
    index: i32,
}

/// Which kind of device is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaceKind {
    /// The processor.
    Cpu,
    /// NVIDIA's, or AMD's by ROCm.
    Cuda,
    /// Apple's.
    Mps,
}

/// An argument of an operator.
#[derive(Clone, Copy)]
pub enum Argument<'a> {
    /// A tensor.
    Tensor(&'a Tensor),
    /// An integer.
    Int(i64),
    /// A floating-point number.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// Integers.
    Ints(&'a [i64]),
    /// Truth values.
    Bools(&'a [bool]),
    /// Tensors.
    Tensors(&'a [&'a Tensor]),
    /// A string.
    Text(&'static str),
    /// A type of elements.
    Type(Type),
    /// An order of elements.
    Format(Format),
    /// An optional argument that is absent.
    None,
    /// An optional argument that is present.
    Some(&'a Argument<'a>),
}

/// More arguments than any operator that is called here has.
const MAX_ARGUMENTS: usize = 16;

thread_local! {
    /// The number of threads that the calling thread was last set to.
    static THREADS: Cell<usize> = const { Cell::new(0) };
}

impl Library {
    /// Loads the libraries in `folder`; those of CUDA too if `cuda`.
    pub fn load(folder: &Path, cuda: bool) -> Result<Library, Error> {
        let open = |name: &str| {
            let path = folder.join(format!("{}{name}{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX));
            // SAFETY: loading runs the initialisers of PyTorch's own libraries, which any Python program runs as well.
            let loaded = unsafe { open_library(&path) };
            loaded.map_err(|error| Error::Library { path: path.clone(), problem: error_text(&error) })
        };
        let main = open("torch_cpu")?;
        let cuda = if cuda { Some(open("torch_cuda")?) } else { None };
        // SAFETY: the library is PyTorch's and is never unloaded (below); these are the signatures of its headers.
        let functions = unsafe { Functions::find(&main) };
        let functions = functions.map_err(|error| Error::Function { problem: error_text(&error) })?;
        // SAFETY: OpenMP's `void omp_set_num_threads(int)`.
        let set_threads = unsafe { main.get(b"omp_set_num_threads\0").ok().map(|function| *function) };
        // SAFETY: functions without arguments that return constants.
        let codes = unsafe {
            Codes {
                version: (functions.aoti_torch_abi_version)(),
                types: [
                    (Type::Float32, (functions.aoti_torch_dtype_float32)()),
                    (Type::Bfloat16, (functions.aoti_torch_dtype_bfloat16)()),
                    (Type::Int64, (functions.aoti_torch_dtype_int64)()),
                    (Type::Uint8, (functions.aoti_torch_dtype_uint8)()),
                ],
                contiguous: (functions.aoti_torch_memory_format_contiguous_format)(),
                channels_last: (functions.aoti_torch_memory_format_channels_last)(),
                strided: (functions.aoti_torch_layout_strided)(),
                cpu: (functions.aoti_torch_device_type_cpu)(),
            }
        };
        let opened = ManuallyDrop::new([Some(main), cuda]);
        Ok(Library { _opened: opened, functions, set_threads, codes })
    }

    /// The place of device `index` of a kind.
    pub fn place(&self, kind: PlaceKind, index: i32) -> Place {
        // SAFETY: functions without arguments that return constants.
        let kind = unsafe {
            match kind {
                PlaceKind::Cpu => (self.functions.aoti_torch_device_type_cpu)(),
                PlaceKind::Cuda => (self.functions.aoti_torch_device_type_cuda)(),
                PlaceKind::Mps => (self.functions.aoti_torch_device_type_mps)(),
            }
        };
        Place { kind, index }
    }

    /// Prepares the calling thread: no gradients are recorded, and operators use `threads` threads, where this can be set.
    pub fn enter(&self, threads: usize) {
        if THREADS.get() == threads {
            return;
        }
        // SAFETY: plain values. The first call initialises the thread's settings, which would overwrite the last one otherwise.
        unsafe {
            let mut current = 0;
            (self.functions.torch_get_num_threads)(&mut current);
            (self.functions.aoti_torch_grad_mode_set_enabled)(false);
            if let Some(set_threads) = self.set_threads {
                set_threads(c_int::try_from(threads).unwrap_or(c_int::MAX));
            }
        }
        THREADS.set(threads);
    }

    /// The number of threads that operators use when the calling thread calls them.
    pub fn threads(&self) -> usize {
        let mut current = 0;
        // SAFETY: writes one number.
        unsafe { (self.functions.torch_get_num_threads)(&mut current) };
        current as usize
    }

    fn type_code(&self, of: Type) -> i32 {
        let found = self.codes.types.iter().find(|(known, _)| *known == of);
        found.expect("the list has every type").1
    }

    /// The message of the calling thread's last exception.
    fn message(&self) -> String {
        // SAFETY: null or a string that lives until the thread's next call.
        let text = unsafe {
            let text = (self.functions.torch_exception_get_what_without_backtrace)();
            if text.is_null() { "no message".into() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
        };
        // The first line says what is wrong; the rest is a list of places in PyTorch's sources.
        text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no message").to_owned()
    }

    fn check(&self, code: i32, operator: &str) -> Result<(), Error> {
        if code == 0 { Ok(()) } else { Err(Error::operator(operator, self.message())) }
    }

    /// Calls the operator `aten::<name>` with all arguments of its schema; returns its first `N` results.
    pub fn call<const N: usize>(
        self: &Arc<Library>,
        name: &CStr,
        overload: &CStr,
        arguments: &[Argument<'_>],
    ) -> Result<[Tensor; N], Error> {
        let mut stack: [Value; MAX_ARGUMENTS] = [0; MAX_ARGUMENTS];
        assert!(arguments.len() <= MAX_ARGUMENTS && N <= MAX_ARGUMENTS, "operators with so few arguments and results");
        for (value, argument) in stack.iter_mut().zip(arguments) {
            *value = self.value(argument)?;
        }
        // SAFETY: the arguments are values as the ABI describes them, and the call takes over all of them. A schema with other
        // arguments, such as one of a later version, is an exception of the dispatcher.
        let code = unsafe {
            (self.functions.torch_call_dispatcher)(
                name.as_ptr(),
                overload.as_ptr(),
                stack.as_mut_ptr(),
                self.codes.version,
            )
        };
        if code != 0 {
            return Err(Error::operator(&name.to_string_lossy(), self.message()));
        }
        Ok(std::array::from_fn(|i| self.owned(stack[i] as Handle)))
    }

    fn owned(self: &Arc<Library>, handle: Handle) -> Tensor {
        Tensor { handle, library: self.clone() }
    }

    fn value(&self, argument: &Argument<'_>) -> Result<Value, Error> {
        let functions = &self.functions;
        Ok(match argument {
            Argument::Int(value) => *value as Value,
            Argument::Float(value) => value.to_bits(),
            Argument::Bool(value) => Value::from(*value),
            Argument::Type(of) => Value::from(self.type_code(*of) as u32),
            Argument::Format(Format::Contiguous) => Value::from(self.codes.contiguous as u32),
            Argument::Format(Format::ChannelsLast) => Value::from(self.codes.channels_last as u32),
            Argument::None => 0,
            Argument::Tensor(tensor) => {
                let mut handle = null_mut();
                // SAFETY: a live handle; the new one goes to the dispatcher.
                self.check(
                    unsafe { (functions.aoti_torch_new_tensor_handle)(tensor.handle, &mut handle) },
                    "a handle",
                )?;
                handle as Value
            }
            Argument::Ints(values) => self.list(values.iter().map(|&value| Ok(value as Value)))?,
            Argument::Bools(values) => self.list(values.iter().map(|&value| Ok(Value::from(value))))?,
            Argument::Tensors(tensors) => {
                self.list(tensors.iter().map(|tensor| self.value(&Argument::Tensor(tensor))))?
            }
            Argument::Text(text) => {
                let mut handle = null_mut();
                // SAFETY: the bytes of a string, which are copied.
                let code =
                    unsafe { (functions.torch_new_string_handle)(text.as_ptr().cast(), text.len(), &mut handle) };
                self.check(code, "a string")?;
                handle as Value
            }
            Argument::Some(value) => {
                let value = self.value(value)?;
                let mut place: *mut Value = null_mut();
                // SAFETY: allocates the space that is written then; the dispatcher frees it.
                unsafe {
                    self.check((functions.torch_new_stable_ivalue)(&mut place), "a value")?;
                    place.write(value);
                }
                place as Value
            }
        })
    }

    fn list(&self, values: impl ExactSizeIterator<Item = Result<Value, Error>>) -> Result<Value, Error> {
        let mut list = null_mut();
        // SAFETY: a new list, which goes to the dispatcher with its elements.
        self.check(unsafe { (self.functions.torch_new_list_reserve_size)(values.len(), &mut list) }, "a list")?;
        for value in values {
            let value = value?;
            // SAFETY: the list just made.
            self.check(unsafe { (self.functions.torch_list_push_back)(list, value) }, "a list")?;
        }
        Ok(list as Value)
    }

    /// A tensor with memory of its own, not initialised.
    fn empty(self: &Arc<Library>, sizes: &[i64], strides: &[i64], of: Type, place: Place) -> Result<Tensor, Error> {
        let mut handle = null_mut();
        // SAFETY: as many sizes as strides.
        let code = unsafe {
            (self.functions.aoti_torch_empty_strided)(
                sizes.len() as i64,
                sizes.as_ptr(),
                strides.as_ptr(),
                self.type_code(of),
                place.kind,
                place.index,
                &mut handle,
            )
        };
        self.check(code, "empty")?;
        Ok(self.owned(handle))
    }

    /// A tensor filled with a value.
    pub fn full(self: &Arc<Library>, sizes: &[i64], value: f64, of: Type, place: Place) -> Result<Tensor, Error> {
        let mut handle = null_mut();
        let (of, kind) = (self.type_code(of), place.kind);
        // SAFETY: pointers to values that live until the call returns.
        let code = unsafe {
            (self.functions.aoti_torch_aten_full)(
                sizes.as_ptr(),
                sizes.len() as i64,
                value,
                &of,
                &self.codes.strided,
                &kind,
                place.index,
                std::ptr::null(),
                &mut handle,
            )
        };
        self.check(code, "full")?;
        Ok(self.owned(handle))
    }

    /// A tensor of these elements at a place: a copy. `strides` are those of `data`, and those of the tensor.
    pub fn upload<E: Element>(
        self: &Arc<Library>,
        data: &[E],
        sizes: &[i64],
        strides: &[i64],
        place: Place,
    ) -> Result<Tensor, Error> {
        let tensor = self.empty(sizes, strides, E::TYPE, place)?;
        let view = self.borrow(data.as_ptr().cast_mut(), data.len(), sizes, strides)?;
        tensor.copy_from(&view)?;
        Ok(tensor)
    }

    /// A tensor on memory of the caller, which must not outlive it, nor be written if the memory is read only.
    fn borrow<E: Element>(
        self: &Arc<Library>,
        data: *mut E,
        length: usize,
        sizes: &[i64],
        strides: &[i64],
    ) -> Result<Tensor, Error> {
        let last: i64 = sizes.iter().zip(strides).map(|(size, stride)| (size - 1) * stride).sum();
        assert!(
            sizes.len() == strides.len()
                && sizes.iter().all(|&size| size > 0)
                && strides.iter().all(|&stride| stride >= 0)
                && last < length as i64,
            "a view of {length} elements with sizes {sizes:?} and strides {strides:?}"
        );
        let mut handle = null_mut();
        // SAFETY: every element of the view lies in the memory (above).
        let code = unsafe {
            (self.functions.aoti_torch_create_tensor_from_blob)(
                data.cast(),
                sizes.len() as i64,
                sizes.as_ptr(),
                strides.as_ptr(),
                0,
                self.type_code(E::TYPE),
                self.codes.cpu,
                0,
                &mut handle,
            )
        };
        self.check(code, "from_blob")?;
        Ok(self.owned(handle))
    }
}

/// Opens a library so that those loaded later find its symbols, as Python does.
///
/// # Safety
/// As [`libloading::Library::new`].
unsafe fn open_library(path: &Path) -> Result<libloading::Library, libloading::Error> {
    #[cfg(unix)]
    {
        use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
        unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }.map(Into::into)
    }
    #[cfg(not(unix))]
    unsafe {
        libloading::Library::new(path)
    }
}

/// The message of the loader, in one line.
fn error_text(error: &libloading::Error) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string);
    source.unwrap_or_else(|| error.to_string()).lines().collect::<Vec<_>>().join(" ")
}

/// Sets a variable of the process's environment, which PyTorch's libraries read when they are loaded.
pub fn set_environment(name: &str, value: &str) {
    // SAFETY: called while the program loads PyTorch, at its start, before it starts threads that read the environment.
    unsafe { std::env::set_var(name, value) };
}

/// Types of elements that are exchanged with tensors.
pub trait Element: Copy {
    /// The tensor's type.
    const TYPE: Type;
}

impl Element for f32 {
    const TYPE: Type = Type::Float32;
}

impl Element for i64 {
    const TYPE: Type = Type::Int64;
}

impl Element for u8 {
    const TYPE: Type = Type::Uint8;
}

/// A tensor of PyTorch. A clone is another reference to the same elements.
pub struct Tensor {
    handle: Handle,
    library: Arc<Library>,
}

// SAFETY: reference counts are atomic. Elements are written only by methods of this crate that are called on tensors of one model,
// which one thread uses at a time; those that several threads share are only read.
unsafe impl Send for Tensor {}
// SAFETY: as above.
unsafe impl Sync for Tensor {}

impl Drop for Tensor {
    fn drop(&mut self) {
        // SAFETY: the handle is owned, and deleted once.
        unsafe { (self.library.functions.aoti_torch_delete_tensor_object)(self.handle) };
    }
}

impl Clone for Tensor {
    fn clone(&self) -> Tensor {
        let mut handle = null_mut();
        // SAFETY: a live handle; the new one is owned by the clone.
        let code = unsafe { (self.library.functions.aoti_torch_new_tensor_handle)(self.handle, &mut handle) };
        assert_eq!(code, 0, "a reference to a tensor: {}", self.library.message());
        self.library.owned(handle)
    }
}

impl Tensor {
    /// The library that it belongs to.
    pub(crate) fn library(&self) -> &Arc<Library> {
        &self.library
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        let mut count = 0;
        // SAFETY: a live handle.
        let code = unsafe { (self.library.functions.aoti_torch_get_numel)(self.handle, &mut count) };
        assert_eq!(code, 0, "the elements of a tensor: {}", self.library.message());
        usize::try_from(count).expect("a number of elements")
    }

    /// The type of the elements; `None` for one that this crate has no name for.
    pub(crate) fn element_type(&self) -> Option<Type> {
        let mut code = 0;
        // SAFETY: a live handle.
        let failed = unsafe { (self.library.functions.aoti_torch_get_dtype)(self.handle, &mut code) };
        assert_eq!(failed, 0, "the type of a tensor: {}", self.library.message());
        self.library.codes.types.iter().find(|(_, known)| *known == code).map(|(name, _)| *name)
    }

    /// The only element.
    pub(crate) fn item(&self) -> Result<f32, Error> {
        let mut value = 0.0;
        // SAFETY: a live handle.
        let code = unsafe { (self.library.functions.aoti_torch_item_float32)(self.handle, &mut value) };
        self.library.check(code, "item")?;
        Ok(value)
    }

    /// Overwrites the elements with those of `other`, converted to its own type, place and order.
    pub(crate) fn copy_from(&self, other: &Tensor) -> Result<(), Error> {
        // SAFETY: live handles; the copy has ended when the call returns (no asynchronous copy).
        let code = unsafe { (self.library.functions.aoti_torch_copy_)(self.handle, other.handle, 0) };
        self.library.check(code, "copy_")
    }

    /// Overwrites the elements with those of `data`, which have these strides there.
    pub(crate) fn overwrite<E: Element>(&self, data: &[E], sizes: &[i64], strides: &[i64]) -> Result<(), Error> {
        assert_eq!(self.elements(), data.len(), "as many elements as the tensor has");
        self.copy_from(&self.library.borrow(data.as_ptr().cast_mut(), data.len(), sizes, strides)?)
    }

    /// Copies the elements to `out`, where they have these strides.
    pub(crate) fn download<E: Element>(&self, out: &mut [E], sizes: &[i64], strides: &[i64]) -> Result<(), Error> {
        assert_eq!(self.elements(), out.len(), "space for the tensor");
        self.library.borrow(out.as_mut_ptr(), out.len(), sizes, strides)?.copy_from(self)
    }

    /// `length` entries of dimension `dimension` from `start` on: a view.
    pub(crate) fn narrow(&self, dimension: usize, start: usize, length: usize) -> Result<Tensor, Error> {
        let mut handle = null_mut();
        // SAFETY: a live handle; a range that is too large is an exception.
        let code = unsafe {
            (self.library.functions.aoti_torch_aten_narrow)(
                self.handle,
                dimension as i64,
                start as i64,
                length as i64,
                &mut handle,
            )
        };
        self.library.check(code, "narrow")?;
        Ok(self.library.owned(handle))
    }

    /// With a constant border: (before, after) of each dimension, the last one first.
    pub(crate) fn pad(&self, border: &[i64], value: f64) -> Result<Tensor, Error> {
        let mut handle = null_mut();
        // SAFETY: a live handle, a list of this length, a string that ends with 0.
        let code = unsafe {
            (self.library.functions.aoti_torch_aten_pad)(
                self.handle,
                border.as_ptr(),
                border.len() as i64,
                c"constant".as_ptr(),
                &value,
                &mut handle,
            )
        };
        self.library.check(code, "pad")?;
        Ok(self.library.owned(handle))
    }

    /// self - `factor` other.
    pub(crate) fn subtract(&self, other: &Tensor, factor: f64) -> Result<Tensor, Error> {
        let mut handle = null_mut();
        // SAFETY: live handles.
        let code = unsafe {
            (self.library.functions.aoti_torch_aten_subtract_Tensor)(self.handle, other.handle, factor, &mut handle)
        };
        self.library.check(code, "sub")?;
        Ok(self.library.owned(handle))
    }
}
