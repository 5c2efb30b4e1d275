//! How much memory of the host an instance of a module takes beside its memories and tables. Nothing counts it when
//! instances are made, so it has a bound before.

use wasmparser::{ElementItems, Parser, Payload};

use crate::limits;

/// Bytes of a global, and of an import or of a function that others can call.
const GLOBAL_BYTES: u64 = 16;
const FUNCTION_BYTES: u64 = 32;

/// Says why a component is refused whose modules take too much of it, to be put behind its name. What is not valid is
/// for the compiler to say.
pub(super) fn check(component: &[u8]) -> Result<(), String> {
    let mut bytes: u64 = 0;
    for payload in Parser::new(0).parse_all(component) {
        let Ok(payload) = payload else {
            return Ok(());
        };
        bytes = match payload {
            Payload::ModuleSection { .. } => 0,
            Payload::GlobalSection(section) => bytes + GLOBAL_BYTES * u64::from(section.count()),
            Payload::ImportSection(section) => bytes + FUNCTION_BYTES * u64::from(section.count()),
            Payload::ExportSection(section) => bytes + FUNCTION_BYTES * u64::from(section.count()),
            Payload::ElementSection(section) => {
                let elements = section.into_iter().flatten();
                bytes + FUNCTION_BYTES * elements.map(|it| count(&it.items)).sum::<u64>()
            }
            _ => bytes,
        };
        if bytes > limits::GUEST_INSTANCE_BYTES_MAX {
            return Err(format!(
                "has a module with globals, imports, exports and elements that take {bytes} bytes in each instance, \
                 more than {}: build it with fewer",
                limits::GUEST_INSTANCE_BYTES_MAX
            ));
        }
    }
    Ok(())
}

fn count(items: &ElementItems<'_>) -> u64 {
    match items {
        ElementItems::Functions(functions) => functions.count().into(),
        ElementItems::Expressions(_, expressions) => expressions.count().into(),
    }
}
