//! What stands behind a job while it is reserved, in white space: the worker and the number of the reservation.

/// The bits of three binary digits, the lowest first.
const BLANKS: [u8; 2] = [b' ', b'\t'];

/// Returns the mark of a worker, as the scripts take it.
pub fn of_worker(number: u64) -> Vec<u8> {
    let mut text = vec![b'\n'];
    let mut left = number;
    loop {
        for bit in 0..3 {
            text.push(BLANKS[usize::from((left >> bit) & 1 == 1)]);
        }
        left >>= 3;
        if left == 0 {
            return text;
        }
    }
}

/// Splits a text into the job and, where a worker of ours has reserved it, that worker's number.
pub fn split(text: &[u8]) -> (&[u8], Option<u64>) {
    let Some((before, serial)) = line(text) else {
        return (text, None);
    };
    match line(before) {
        Some((job, worker)) if worker.len() % 3 == 0 && serial.len() % 3 == 0 => {
            (job, Some(number(worker)))
        }
        _ => (before, None),
    }
}

/// Splits off a last line of blanks.
fn line(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = text.iter().rposition(|byte| !BLANKS.contains(byte))?;
    (text[end] == b'\n' && end + 1 < text.len()).then(|| (&text[..end], &text[end + 1..]))
}

fn number(blanks: &[u8]) -> u64 {
    let digits = blanks.iter().take(64).enumerate();
    digits.fold(0, |sum, (place, byte)| {
        sum | (u64::from(*byte == b'\t') << place)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_blanks() {
        for worker in [1, 7, 8, 9, 4711, u64::MAX] {
            let text = [b"{}".as_slice(), &of_worker(worker), b"\n\t  "].concat();
            assert_eq!(split(&text), (&b"{}"[..], Some(worker)));
        }
    }

    #[test]
    fn white_space_of_a_job_s_own_stays() {
        for text in ["{}", "{}\n", "{} ", "{}\n\n", "x"] {
            assert_eq!(split(text.as_bytes()), (text.as_bytes(), None), "{text:?}");
        }
        // Of an earlier version.
        assert_eq!(split(b"{}\n\t  "), (&b"{}"[..], None));
    }
}
