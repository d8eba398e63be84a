//! Any video that ffmpeg reads: `ffprobe` counts its frames, `ffmpeg` writes the wanted ones into a pipe as PPM, pixels
//! behind a short head.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use qwen3::vision::processor::{Image, Processor, Video};
use serde_json::Value;

use super::video::Frames;
use super::{MediaError, check_size};

/// A path that is never read as an option or as an address.
fn input(path: &Path) -> OsString {
    let mut name = OsString::from("file:");
    name.push(path);
    name
}

fn failed(path: &Path, program: &'static str, e: std::io::Error) -> MediaError {
    match e.kind() {
        ErrorKind::NotFound => MediaError::NoProgram { path: path.to_path_buf(), program },
        _ => MediaError::io(Path::new(program), e),
    }
}

/// What a program says of a file that it cannot read.
fn complaint(path: &Path, program: &str, stderr: &[u8]) -> MediaError {
    let text = String::from_utf8_lossy(stderr);
    let line = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("gave nothing");
    MediaError::decode(path, format!("{program}: {}", line.trim()))
}

pub(super) fn read(path: &Path, processor: &Processor) -> Result<Video, MediaError> {
    let (total, fps) = probe(path)?;
    let indices = processor.frame_rate.sample(total, fps).map_err(|e| MediaError::processor(path, e))?;
    let mut taken = Frames::new(path, processor, indices.clone(), fps);
    let wanted: Vec<String> = indices.iter().map(|i| format!("eq(n,{i})")).collect();
    // The second filter and the rate give frames times in a row, so that none is doubled or dropped.
    let filter = format!("select='{}',setpts=N/25/TB", wanted.join("+"));
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-nostdin", "-i"]).arg(input(path));
    command.args(["-map", "0:v:0", "-vf", &filter, "-r", "25", "-f", "image2pipe", "-c:v", "ppm", "-"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| failed(path, "ffmpeg", e))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let said = std::thread::spawn(move || {
        let mut said = Vec::new();
        // Read to its end, so that the program never waits; kept is the beginning.
        if let Some(mut stderr) = stderr {
            let _ = stderr.by_ref().take(1 << 16).read_to_end(&mut said);
            let _ = std::io::copy(&mut stderr, &mut std::io::sink());
        }
        said
    });
    let all = || -> Result<(), MediaError> {
        let Some(stdout) = stdout else { return Ok(()) };
        let mut pipe = BufReader::new(stdout);
        while taken.next().is_some() {
            let Some(frame) = ppm(path, &mut pipe)? else { break };
            taken.push(&frame)?;
        }
        Ok(())
    };
    let outcome = all();
    // It may have more to write than anybody reads.
    let _ = child.kill();
    let _ = child.wait();
    let said = said.join().unwrap_or_default();
    outcome?;
    match taken.next() {
        Some(_) if !said.is_empty() => Err(complaint(path, "ffmpeg", &said)),
        _ => taken.finish(),
    }
}

/// Frames of the first video stream, and their rate.
fn probe(path: &Path) -> Result<(usize, Option<f64>), MediaError> {
    let mut command = Command::new("ffprobe");
    command.args(["-v", "error", "-select_streams", "v:0", "-count_frames"]);
    command.args(["-show_entries", "stream=avg_frame_rate,r_frame_rate,nb_read_frames", "-of", "json"]);
    let out = command.arg("-i").arg(input(path)).stdin(Stdio::null()).output();
    let out = out.map_err(|e| failed(path, "ffprobe", e))?;
    if !out.status.success() {
        return Err(complaint(path, "ffprobe", &out.stderr));
    }
    let said: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
    let stream = &said["streams"][0];
    let total = stream["nb_read_frames"].as_str().and_then(|n| n.parse().ok());
    let Some(total) = total else { return Err(MediaError::decode(path, "has no video stream")) };
    Ok((total, rate(&stream["avg_frame_rate"]).or_else(|| rate(&stream["r_frame_rate"]))))
}

/// `30000/1001`; `None` for `0/0`.
fn rate(value: &Value) -> Option<f64> {
    let (numerator, denominator) = value.as_str()?.split_once('/')?;
    let rate = numerator.parse::<f64>().ok()? / denominator.parse::<f64>().ok()?;
    (rate > 0.0 && rate.is_finite()).then_some(rate)
}

/// The next image of a pipe: `P6`, columns, rows, 255, then the pixels. `None` at the end.
fn ppm(path: &Path, pipe: &mut impl BufRead) -> Result<Option<Image>, MediaError> {
    let io = |e| MediaError::io(path, e);
    let bad = || MediaError::decode(path, "ffmpeg wrote no PPM image");
    let mut fields = Vec::new();
    while fields.len() < 4 {
        let mut line = Vec::new();
        if pipe.by_ref().take(64).read_until(b'\n', &mut line).map_err(io)? == 0 {
            return if fields.is_empty() { Ok(None) } else { Err(bad()) };
        }
        let line = String::from_utf8(line).map_err(|_| bad())?;
        fields.extend(line.split_ascii_whitespace().map(ToOwned::to_owned));
    }
    let [kind, width, height, most] = &fields[..] else { return Err(bad()) };
    let (Ok(width), Ok(height)) = (width.parse::<u64>(), height.parse::<u64>()) else { return Err(bad()) };
    if (kind.as_str(), most.as_str()) != ("P6", "255") {
        return Err(bad());
    }
    check_size(path, width, height)?;
    let mut rgb = vec![0; (width * height * 3) as usize];
    pipe.read_exact(&mut rgb).map_err(|_| MediaError::decode(path, "the video is cut inside a frame"))?;
    let image = Image::from_rgb(height as usize, width as usize, rgb);
    Ok(Some(image.map_err(|e| MediaError::processor(path, e))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_of_images_is_read_to_its_end() {
        let path = Path::new("clip.mp4");
        let mut pipe = &b"P6\n2 1\n255\nabcdefP6\n1 1\n255\nghi"[..];
        let sizes = |image: Image| (image.height(), image.width(), image.rgb().to_vec());
        assert_eq!(sizes(ppm(path, &mut pipe).unwrap().unwrap()), (1, 2, b"abcdef".to_vec()));
        assert_eq!(sizes(ppm(path, &mut pipe).unwrap().unwrap()), (1, 1, b"ghi".to_vec()));
        assert!(ppm(path, &mut pipe).unwrap().is_none());
        for (bytes, reason) in [
            (&b"P6\n2 1\n255\nabc"[..], "clip.mp4: the video is cut inside a frame"),
            (b"P5\n2 1\n255\nab", "clip.mp4: ffmpeg wrote no PPM image"),
            (b"P6\n2", "clip.mp4: ffmpeg wrote no PPM image"),
            (b"P6\n99999999 99999999\n255\n", "clip.mp4: 99999999 by 99999999 pixels are more"),
        ] {
            let error = ppm(path, &mut &bytes[..]).unwrap_err().to_string();
            assert!(error.starts_with(reason), "{error}");
        }
    }

    #[test]
    fn rates_are_fractions() {
        for (text, expected) in
            [("30/1", Some(30.0)), ("30000/1001", Some(30000.0 / 1001.0)), ("0/0", None), ("25", None)]
        {
            assert_eq!(rate(&text.into()), expected, "{text}");
        }
    }
}
