//! The driver: memory, modules and launches.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cuda_twin::{Arg, Buf, Gpu, Launch, Module, Options, Param};

use crate::compiler::Bundle;

type Status = c_int;
const SUCCESS: Status = 0;
const INVALID_VALUE: Status = 1;
const OUT_OF_MEMORY: Status = 2;
const INVALID_SOURCE: Status = 300;
const NOT_FOUND: Status = 500;
const LAUNCH_FAILED: Status = 719;

/// All device memory, by address. Its bytes count as written: NaN, until something is.
static MEMORY: Mutex<BTreeMap<u64, Buf<u8>>> = Mutex::new(BTreeMap::new());

fn memory() -> MutexGuard<'static, BTreeMap<u64, Buf<u8>>> {
    MEMORY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What was loaded: kernels, or code of which nothing is known.
enum Loaded {
    Kernels(Module),
    Unknown,
}

struct Function {
    module: *const Loaded,
    name: String,
    params: Vec<Param>,
}

/// Says on standard error why a call fails.
fn refuse(status: Status, why: impl std::fmt::Display) -> Status {
    eprintln!("cuda-mock: {why}");
    status
}

/// # Safety
/// As of the driver's function, here and below.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> Status {
    // SAFETY: a place for the answer.
    unsafe { *count = 1 };
    SUCCESS
}

/// # Safety
/// As of the driver's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> Status {
    if ordinal != 0 {
        return 101; // CUDA_ERROR_INVALID_DEVICE
    }
    // SAFETY: a place for the answer.
    unsafe { *device = 0 };
    SUCCESS
}

/// # Safety
/// As of the driver's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> Status {
    // SAFETY: a place for the answer.
    unsafe { *version = 13_000 };
    SUCCESS
}

/// # Safety
/// As of the driver's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, _device: c_int) -> Status {
    let found = match attribute {
        75 => 9,   // compute capability, major
        76 => 0,   // and minor
        10 => 32,  // lanes of a warp
        16 => 132, // multiprocessors
        115 => 1,  // memory pools
        _ => 1024,
    };
    // SAFETY: a place for the answer.
    unsafe { *value = found };
    SUCCESS
}

/// Any handle that is not null.
///
/// # Safety
/// `handle` is a place for one.
unsafe fn give<T>(handle: *mut *mut T) -> Status {
    // SAFETY: the caller's promise.
    unsafe { *handle = std::ptr::dangling_mut::<u64>().cast() };
    SUCCESS
}

/// # Safety
/// As of the driver's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut *mut c_void, _device: c_int) -> Status {
    // SAFETY: a place for the answer.
    unsafe { give(context) }
}

/// # Safety
/// As of the driver's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxGetCurrent(context: *mut *mut c_void) -> Status {
    // SAFETY: a place for the answer.
    unsafe { give(context) }
}

/// # Safety
/// As of the driver's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamCreate(stream: *mut *mut c_void, _flags: c_uint) -> Status {
    // SAFETY: a place for the answer.
    unsafe { give(stream) }
}

/// # Safety
/// As of the driver's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamIsCapturing(_stream: *mut c_void, status: *mut c_int) -> Status {
    // SAFETY: a place for the answer.
    unsafe { *status = 0 };
    SUCCESS
}

/// # Safety
/// As of the driver's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventCreate(event: *mut *mut c_void, _flags: c_uint) -> Status {
    // SAFETY: a place for the answer.
    unsafe { give(event) }
}

/// # Safety
/// As of the driver's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> Status {
    if bytes == 0 {
        return INVALID_VALUE;
    }
    match Gpu::emulated(Options::unchecked()).uninit::<u8>(bytes) {
        Ok(buf) => {
            // SAFETY: a place for the answer.
            unsafe { *address = buf.address() };
            memory().insert(buf.address(), buf);
            SUCCESS
        }
        Err(error) => refuse(OUT_OF_MEMORY, error),
    }
}

/// # Safety
/// As of the driver's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAllocAsync(address: *mut u64, bytes: usize, _stream: *mut c_void) -> Status {
    // SAFETY: the caller's promise.
    unsafe { cuMemAlloc_v2(address, bytes) }
}

/// # Safety
/// As of the driver's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemFree_v2(address: u64) -> Status {
    match memory().remove(&address) {
        Some(_) => SUCCESS,
        None => refuse(INVALID_VALUE, format_args!("{address:#x} was not allocated")),
    }
}

/// # Safety
/// As of the driver's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemFreeAsync(address: u64, _stream: *mut c_void) -> Status {
    // SAFETY: the caller's promise.
    unsafe { cuMemFree_v2(address) }
}

/// The allocation that holds `bytes` bytes from an address, and where in it they start.
fn find(memory: &BTreeMap<u64, Buf<u8>>, address: u64, bytes: usize) -> Option<(&Buf<u8>, usize)> {
    let (start, buf) = memory.range(..=address).next_back()?;
    let offset = (address - start) as usize;
    (offset.checked_add(bytes)? <= buf.len()).then_some((buf, offset))
}

/// Whether all of these bytes are device memory.
fn holds(address: u64, bytes: usize) -> bool {
    let found = find(&memory(), address, bytes).is_some();
    if !found {
        refuse(INVALID_VALUE, format_args!("{bytes} bytes from {address:#x} are not in one allocation"));
    }
    found
}

/// # Safety
/// `bytes` bytes can be read from `from` and written to `to`.
unsafe fn copy(to: u64, from: u64, bytes: usize) -> Status {
    // SAFETY: the caller's promise; device memory is the host's, and no launch runs, since it would hold `MEMORY`.
    unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
    SUCCESS
}

/// # Safety
/// As of the driver's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: u64,
    from: *const c_void,
    bytes: usize,
    _stream: *mut c_void,
) -> Status {
    // SAFETY: the target was found; the source is the caller's promise.
    if holds(to, bytes) { unsafe { copy(to, from as u64, bytes) } } else { INVALID_VALUE }
}

/// # Safety
/// As of the driver's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: u64,
    bytes: usize,
    _stream: *mut c_void,
) -> Status {
    // SAFETY: the source was found; the target is the caller's promise.
    if holds(from, bytes) { unsafe { copy(to as u64, from, bytes) } } else { INVALID_VALUE }
}

/// # Safety
/// As of the driver's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, _stream: *mut c_void) -> Status {
    // SAFETY: both were found.
    if holds(to, bytes) && holds(from, bytes) { unsafe { copy(to, from, bytes) } } else { INVALID_VALUE }
}

/// # Safety
/// As of the driver's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemsetD8Async(to: u64, value: u8, bytes: usize, _stream: *mut c_void) -> Status {
    if !holds(to, bytes) {
        return INVALID_VALUE;
    }
    // SAFETY: the target was found.
    unsafe { std::ptr::write_bytes(to as *mut u8, value, bytes) };
    SUCCESS
}

/// # Safety
/// As of the driver's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleLoadData(module: *mut *mut c_void, image: *const c_void) -> Status {
    // SAFETY: the image is a bundle of `nvrtcGetCUBIN`, or text that ends with a zero byte.
    let loaded = match unsafe { Bundle::read(image.cast()) } {
        None => Loaded::Unknown,
        Some(bundle) => {
            let own = |name: &str| cuda_twin::headers().iter().any(|(header, _)| *header == name);
            let headers: Vec<(&str, &str)> = bundle
                .headers
                .iter()
                .map(|(name, text)| (name.as_str(), text.as_str()))
                .filter(|(name, _)| !own(name))
                .collect();
            let gpu = Gpu::emulated(Options::default());
            match gpu.compile_with(&bundle.name, &bundle.source, &headers) {
                Ok(kernels) => Loaded::Kernels(kernels),
                Err(error) => return refuse(INVALID_SOURCE, error),
            }
        }
    };
    // SAFETY: a place for the answer. Modules stay for as long as the program runs.
    unsafe { *module = Box::into_raw(Box::new(loaded)).cast() };
    SUCCESS
}

/// # Safety
/// As of the driver's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleGetFunction(
    function: *mut *mut c_void,
    module: *mut c_void,
    name: *const c_char,
) -> Status {
    let module: *const Loaded = module.cast_const().cast();
    // SAFETY: made by `cuModuleLoadData`; the name ends with a zero byte.
    let (loaded, name) = unsafe { (&*module, CStr::from_ptr(name).to_string_lossy().into_owned()) };
    let Loaded::Kernels(kernels) = loaded else { return NOT_FOUND };
    let Ok(params) = kernels.params(&name) else { return NOT_FOUND };
    // SAFETY: a place for the answer. Functions stay for as long as the program runs.
    unsafe { *function = Box::into_raw(Box::new(Function { module, name, params })).cast() };
    SUCCESS
}

/// # Safety
/// As of the driver's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuFuncGetParamInfo(
    function: *mut c_void,
    index: usize,
    offset: *mut usize,
    bytes: *mut usize,
) -> Status {
    // SAFETY: made by `cuModuleGetFunction`.
    let params = unsafe { &(*function.cast::<Function>()).params };
    let Some(param) = params.get(index) else { return INVALID_VALUE };
    // SAFETY: places for the answers.
    unsafe {
        *offset = params[..index].iter().fold(0, |at, p| at + p.bytes().next_multiple_of(8));
        *bytes = param.bytes();
    }
    SUCCESS
}

/// # Safety
/// As of the driver's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuLaunchKernel(
    function: *mut c_void,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared_bytes: c_uint,
    _stream: *mut c_void,
    values: *mut *mut c_void,
    _extra: *mut *mut c_void,
) -> Status {
    // SAFETY: made by `cuModuleGetFunction`, and so is its module.
    let (function, module) = unsafe {
        let function = &*function.cast::<Function>();
        (function, &*function.module)
    };
    let Loaded::Kernels(kernels) = module else { return NOT_FOUND };
    let memory = memory();
    let mut args = Vec::new();
    for (index, param) in function.params.iter().enumerate() {
        let mut bits = [0; 8];
        // SAFETY: the caller gives an address of `bytes` bytes for each parameter.
        unsafe {
            let value = (*values.add(index)).cast::<u8>();
            std::ptr::copy_nonoverlapping(value, bits.as_mut_ptr(), param.bytes().min(8));
        }
        let number = u64::from_le_bytes(bits);
        if !param.is_pointer() {
            args.push(match param.bytes() {
                1 => Arg::value([bits[0]]),
                2 => Arg::value([bits[0], bits[1]]),
                4 => Arg::value([bits[0], bits[1], bits[2], bits[3]]),
                _ => Arg::value(bits),
            });
            continue;
        }
        let found = find(&memory, number, 0).map(|(buf, offset)| buf.slice(offset..buf.len()));
        match found {
            Some(Ok(arg)) => args.push(arg),
            _ => {
                let why = format!("{}: argument {index}, {number:#x}, is no device memory", function.name);
                return refuse(LAUNCH_FAILED, why);
            }
        }
    }
    let launch = Launch { grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z], shared_bytes };
    // SAFETY: checked emulation stops at the first access that is wrong.
    match unsafe { kernels.launch(&function.name, launch, &args) } {
        Ok(()) => SUCCESS,
        Err(error) => refuse(LAUNCH_FAILED, error),
    }
}
