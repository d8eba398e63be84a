//! NVRTC: "compiles" to a bundle of the source and its headers, which the driver's `cuModuleLoadData` compiles.

use std::ffi::{CStr, c_char, c_int, c_void};

const SUCCESS: c_int = 0;
const INVALID_INPUT: c_int = 3;

/// What stands before a bundle, so that other code is told from it.
const MAGIC: &[u8; 8] = b"TWINMOCK";

/// Source text with what it includes.
#[derive(Default)]
pub(crate) struct Bundle {
    pub(crate) name: String,
    pub(crate) source: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Bundle {
    fn to_bytes(&self) -> Vec<u8> {
        let headers = self.headers.iter().flat_map(|(name, text)| [name, text]);
        let texts: Vec<&String> = [&self.name, &self.source].into_iter().chain(headers).collect();
        let mut bytes = MAGIC.to_vec();
        bytes.extend((texts.len() as u64).to_le_bytes());
        for text in texts {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes
    }

    /// `None` for anything but a bundle.
    ///
    /// # Safety
    /// `image` is a bundle, or readable up to its first byte that a bundle has not.
    pub(crate) unsafe fn read(image: *const u8) -> Option<Self> {
        for (i, byte) in MAGIC.iter().enumerate() {
            // SAFETY: all bytes before were those of a bundle.
            if unsafe { image.add(i).read() } != *byte {
                return None;
            }
        }
        let mut at = MAGIC.len();
        let mut take = |n: usize| {
            // SAFETY: a bundle says how long its parts are.
            let bytes = unsafe { std::slice::from_raw_parts(image.add(at), n) };
            at += n;
            bytes
        };
        let number = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).unwrap_or(0) as usize;
        let count = number(take(8));
        let mut texts = Vec::new();
        for _ in 0..count {
            let len = number(take(8));
            texts.push(String::from_utf8_lossy(take(len)).into_owned());
        }
        let mut texts = texts.into_iter();
        let (name, source) = (texts.next()?, texts.next()?);
        let mut headers = Vec::new();
        while let (Some(name), Some(text)) = (texts.next(), texts.next()) {
            headers.push((name, text));
        }
        Some(Self { name, source, headers })
    }
}

/// # Safety
/// `text` is null or ends with a zero byte.
unsafe fn string(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// # Safety
/// As of NVRTC's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcVersion(major: *mut c_int, minor: *mut c_int) -> c_int {
    // SAFETY: places for the answers.
    unsafe {
        *major = 13;
        *minor = 0;
    }
    SUCCESS
}

/// # Safety
/// As of NVRTC's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcCreateProgram(
    program: *mut *mut c_void,
    source: *const c_char,
    name: *const c_char,
    count: c_int,
    headers: *const *const c_char,
    names: *const *const c_char,
) -> c_int {
    // SAFETY: the caller gives `count` headers with their names, and a place for the program.
    unsafe {
        let header = |i: usize| (string(*names.add(i)), string(*headers.add(i)));
        let headers = (0..usize::try_from(count).unwrap_or(0)).map(header).collect();
        let bundle = Bundle { name: string(name), source: string(source), headers };
        *program = Box::into_raw(Box::new(bundle.to_bytes())).cast();
    }
    SUCCESS
}

/// # Safety
/// As of NVRTC's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcGetCUBINSize(program: *mut c_void, bytes: *mut usize) -> c_int {
    if program.is_null() {
        return INVALID_INPUT;
    }
    // SAFETY: made by `nvrtcCreateProgram`.
    unsafe { *bytes = (*program.cast::<Vec<u8>>()).len() };
    SUCCESS
}

/// # Safety
/// As of NVRTC's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcGetCUBIN(program: *mut c_void, cubin: *mut u8) -> c_int {
    if program.is_null() {
        return INVALID_INPUT;
    }
    // SAFETY: made by `nvrtcCreateProgram`; the caller asked for the size.
    unsafe {
        let bytes = &*program.cast::<Vec<u8>>();
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), cubin, bytes.len());
    }
    SUCCESS
}

/// # Safety
/// As of NVRTC's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcDestroyProgram(program: *mut *mut c_void) -> c_int {
    // SAFETY: made by `nvrtcCreateProgram`, and destroyed once.
    unsafe { drop(Box::from_raw((*program).cast::<Vec<u8>>())) };
    SUCCESS
}
