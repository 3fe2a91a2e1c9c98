//! Why execve(2) finds the arguments and the environment too large (E2BIG), in words.

use std::ffi::CString;

/// One argument or variable may have so many pages (MAX_ARG_STRLEN in include/uapi/linux/binfmts.h).
const PAGES: usize = 32;
/// All of them may have a quarter of the soft limit of the stack, but 128 KiB at least and 6 MiB at most
/// (`bprm_stack_limits` in fs/exec.c, Linux 6.18).
const LEAST: u64 = 128 * 1024;
const MOST: u64 = 6 * 1024 * 1024;

/// What is too large; `stack` is the soft limit of the stack, and `page` the size of a page, in bytes.
///
/// A variable is named, and its value is not shown, because it may be secret.
pub(super) fn too_large(arguments: &[CString], environment: &[CString], stack: Option<u64>, page: usize) -> String {
    let most = PAGES * page;
    let one = |(what, string): (String, &CString)| {
        let size = size(string);
        (size > most).then(|| format!("{what} has {size} bytes, and one string may have {most} (MAX_ARG_STRLEN)"))
    };
    let of_arguments = arguments.iter().enumerate().map(|(n, argument)| (format!("argument {n}"), argument));
    let of_environment = environment.iter().map(|variable| (format!("the variable {}", name(variable)), variable));
    of_arguments.chain(of_environment).find_map(one).unwrap_or_else(|| {
        let limit = stack.map_or(MOST, |stack| (stack / 4).clamp(LEAST, MOST));
        format!(
            "{} environment variables have {} bytes, and {} arguments {}: both together may have {limit}, which the \
             limit of the stack allows (RLIMIT_STACK, {} bytes)",
            environment.len(),
            all(environment),
            arguments.len(),
            all(arguments),
            stack.map_or_else(|| "unlimited".to_owned(), |stack| stack.to_string()),
        )
    })
}

fn name(variable: &CString) -> String {
    let name = variable.as_bytes().split(|byte| *byte == b'=').next().unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}

fn size(string: &CString) -> usize {
    string.as_bytes_with_nul().len()
}

/// With the pointers to the strings, which the kernel counts too.
fn all(strings: &[CString]) -> usize {
    strings.iter().map(|string| size(string) + size_of::<usize>()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 4096;

    fn strings(all: &[&str]) -> Vec<CString> {
        all.iter().map(|one| CString::new(*one).expect("no NUL")).collect()
    }

    #[test]
    fn one_that_is_too_large_is_named_and_its_value_is_not_shown() {
        let (fits, large) = (format!("FITS={}", "x".repeat(131_066)), format!("SECRET={}", "x".repeat(131_065)));
        let text = too_large(&strings(&["server"]), &strings(&["HOME=/", &fits, &large]), None, PAGE);
        assert_eq!(text, "the variable SECRET has 131073 bytes, and one string may have 131072 (MAX_ARG_STRLEN)");
        let text = too_large(&strings(&["server", &large]), &strings(&["HOME=/"]), None, PAGE);
        assert!(text.starts_with("argument 1 has 131073 bytes"), "{text}");
        // An architecture with larger pages.
        let text = too_large(&strings(&["server"]), &strings(&[&large]), None, 16 * PAGE);
        assert!(text.starts_with("1 environment variables"), "{text}");
    }

    #[test]
    fn all_together_have_the_limit_that_the_stack_gives() {
        let (arguments, environment) = (strings(&["server", "-v"]), strings(&["HOME=/"]));
        let pointer = size_of::<usize>();
        for (stack, limit, shown) in [
            (Some(8 * 1024 * 1024), "2097152", "8388608"),
            (Some(4096), "131072", "4096"),
            (Some(1 << 30), "6291456", "1073741824"),
            (None, "6291456", "unlimited"),
        ] {
            let text = too_large(&arguments, &environment, stack, PAGE);
            let sizes = format!(
                "1 environment variables have {} bytes, and 2 arguments {}: both together may have {limit}, ",
                7 + pointer,
                10 + 2 * pointer
            );
            assert!(text.starts_with(&sizes), "{text}");
            assert!(text.ends_with(&format!("(RLIMIT_STACK, {shown} bytes)")), "{text}");
        }
    }
}
