//! Callbacks that stop, cancel, call back into the session, or free it.

use std::ffi::{c_char, c_void, CStr};

use crate::header::*;

/// What a callback does, passed to it as its user data.
pub struct Listener {
    /// Calls until it acts.
    pub countdown: u8,
    /// What it does then.
    pub action: Action,
    /// The session that the call is on.
    pub session: *mut tgv_session,
    /// Whether it freed that session.
    pub freed: bool,
    /// Text that it got.
    pub heard: Vec<u8>,
}

/// What a callback may do.
#[derive(Clone, Copy, PartialEq)]
pub enum Action {
    /// Nothing.
    Listen,
    /// Ask to stop.
    Stop,
    /// Cancel the session.
    Cancel,
    /// Call the session, which must be busy.
    Reenter,
    /// Free the session, which lives until the call returns.
    Free,
}

impl Listener {
    /// Numbers choose the action and when it comes.
    pub fn new(n: u8, session: *mut tgv_session) -> Listener {
        let action = match n % 8 {
            1 => Action::Stop,
            2 => Action::Cancel,
            3 => Action::Reenter,
            4 => Action::Free,
            _ => Action::Listen,
        };
        Listener { countdown: n / 8 % 8, action, session, freed: false, heard: Vec::new() }
    }

    /// What C passes on.
    pub fn user_data(&mut self) -> *mut c_void {
        (self as *mut Listener).cast()
    }

    fn hear(&mut self) -> i32 {
        if self.countdown > 0 {
            self.countdown -= 1;
            return 0;
        }
        if self.session.is_null() {
            return i32::from(self.action == Action::Stop);
        }
        // SAFETY: the session lives at least until the call that this is a callback of returns.
        unsafe {
            match self.action {
                Action::Listen => {}
                Action::Stop => return 1,
                Action::Cancel => tgv_session_cancel(self.session),
                Action::Reenter => assert_eq!(tgv_session_reset(self.session), TGV_ERROR_BUSY),
                Action::Free if !self.freed => {
                    self.freed = true;
                    tgv_session_free(self.session);
                    self.session = std::ptr::null_mut();
                }
                Action::Free => {}
            }
        }
        0
    }
}

/// # Safety
/// `user_data` is a listener that nobody else uses meanwhile; so for all functions here.
unsafe fn listener<'a>(user_data: *mut c_void) -> &'a mut Listener {
    // SAFETY: the caller's promise.
    unsafe { &mut *user_data.cast() }
}

/// A `tgv_text_callback`.
pub unsafe extern "C" fn on_text(text: *const c_char, length: usize, user_data: *mut c_void) -> i32 {
    // SAFETY: the text is terminated and as long as it says.
    let bytes = unsafe { CStr::from_ptr(text) }.to_bytes();
    assert_eq!(bytes.len(), length);
    assert!(std::str::from_utf8(bytes).is_ok(), "a piece of text is no UTF-8: {bytes:?}");
    // SAFETY: see `listener`.
    let listener = unsafe { listener(user_data) };
    listener.heard.extend_from_slice(bytes);
    listener.hear()
}

/// A `tgv_answer_callback`.
pub unsafe extern "C" fn on_answer(
    _index: usize,
    answer: *const c_char,
    length: usize,
    finish: i32,
    user_data: *mut c_void,
) -> i32 {
    assert!((1..=4).contains(&finish), "an answer ended for no known reason: {finish}");
    // SAFETY: passed on.
    unsafe { on_text(answer, length, user_data) }
}

/// A `tgv_progress_callback`.
pub unsafe extern "C" fn on_progress(fraction: f32, user_data: *mut c_void) -> i32 {
    assert!((0.0..=1.0).contains(&fraction), "{fraction}");
    // SAFETY: see `listener`.
    unsafe { listener(user_data) }.hear()
}

/// A `tgv_phase_callback` without user data of its own: the listener outlives the call that it belongs to only.
pub unsafe extern "C" fn on_phase(phase: i32, fraction: f32, remaining_ms: f32, _user_data: *mut c_void) -> i32 {
    assert!((0..=2).contains(&phase) && (0.0..=1.0).contains(&fraction) && remaining_ms >= -1.0);
    0
}

/// A `tgv_log_callback`.
pub unsafe extern "C" fn on_log(level: i32, text: *const c_char, _user_data: *mut c_void) {
    assert!((1..=4).contains(&level));
    // SAFETY: the text is terminated.
    let bytes = unsafe { CStr::from_ptr(text) }.to_bytes();
    assert!(std::str::from_utf8(bytes).is_ok(), "a message is no UTF-8");
}
