//! Names for numbers, for the exposition and the stream, out of [`crate::explain`].

use std::borrow::Cow;

use crate::{
    cli::tail::RecordNames,
    explain::{
        ResetReasons, errno_name, family_name, level_name, option_name, protocol_name,
        received_reset_name,
    },
    export,
};

/// All names; RST reasons as the running kernel numbers them.
#[derive(Clone)]
pub struct Names(pub ResetReasons);

impl export::Names for Names {
    fn errno(&self, errno: u16) -> String {
        errno_name(errno).into_owned()
    }

    fn level(&self, level: i32) -> String {
        level_name(level).into_owned()
    }

    fn option(&self, level: i32, option: i32) -> String {
        option_name(level, option).into_owned()
    }

    fn family(&self, family: u16) -> String {
        family_name(family).into_owned()
    }

    fn protocol(&self, family: u16, protocol: u16, socket_type: u16) -> String {
        protocol_name(family, protocol, socket_type).into_owned()
    }
}

impl RecordNames for Names {
    fn errno(&self, errno: u16) -> Cow<'static, str> {
        errno_name(errno)
    }

    fn sockopt_level(&self, level: i32) -> Cow<'static, str> {
        level_name(level)
    }

    fn sockopt_option(&self, level: i32, option: i32) -> Cow<'static, str> {
        option_name(level, option)
    }

    fn family(&self, family: u16) -> Cow<'static, str> {
        family_name(family)
    }

    fn protocol(&self, family: u16, protocol: u16, socket_type: u16) -> Cow<'static, str> {
        protocol_name(family, protocol, socket_type)
    }

    fn reset_reason(&self, sent: bool, index: u32) -> Cow<'_, str> {
        if sent {
            self.0.name(index)
        } else {
            received_reset_name(index)
        }
    }
}
