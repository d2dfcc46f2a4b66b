package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/skiff-k8s/skiff/kubelet/logs"
)

// logOptions say which part of a container's log is wanted, and how.
type logOptions struct {
	tail       int64     // last lines only; -1 is all
	limit      int64     // bytes written at most; -1 is all
	since      time.Time // lines from then on; zero is all
	timestamps bool
	follow     bool
	stream     string // "stdout", "stderr" or "" for both
}

// A following reader looks for more after pollFirst, and less often down to pollLast while there is
// none; so often it also looks whether the container still runs.
const (
	pollFirst = 20 * time.Millisecond
	pollLast  = 250 * time.Millisecond
)

// maxLine is how many bytes a line of a log may have. Runtimes cut lines at 16 KiB of text.
const maxLine = 1 << 20

// logStamp is how a line's time is shown: fixed in width, so that lines align.
const logStamp = "2006-01-02T15:04:05.000000000Z07:00"

var errLimit = errors.New("limit of bytes reached")

// logCopy copies one CRI log file.
type logCopy struct {
	logOptions
	out     io.Writer
	flush   func()
	left    int64 // bytes that may be written yet, -1 for any
	partial bool  // the last line goes on
	pending []byte
}

// copyLog writes the chosen lines of a CRI log file. With follow it goes on, also into the file that
// takes its place when it is rotated, until running says no or ctx ends.
func copyLog(ctx context.Context, path string, o logOptions, out io.Writer, flush func(), running func(context.Context) (bool, error)) error {
	file, err := logs.Open(path)
	if err != nil {
		return err
	}
	defer func() { file.Close() }()
	if o.tail >= 0 {
		if err := seekTail(ctx, file, o.tail); err != nil {
			return fmt.Errorf("find the last %d lines of %s: %w", o.tail, path, err)
		}
	}
	c := &logCopy{logOptions: o, out: out, flush: flush, left: o.limit}
	reader := bufio.NewReaderSize(file, 64<<10)
	wait, look := pollFirst, true // a log of the past ends at once
	for ended := false; ; {
		more, err := c.drain(ctx, reader)
		flush()
		if errors.Is(err, errLimit) || ctx.Err() != nil {
			return nil
		}
		if err != nil || !o.follow {
			return err
		}
		next, err := rotated(file, path)
		if err != nil {
			return err
		}
		if next != nil {
			// The runtime writes to the new file now, so that the old one has all it will ever have.
			_, err = c.drain(ctx, reader)
			file.Close()
			file, ended, wait = next, false, pollFirst
			reader.Reset(file)
			c.pending = nil
			if err != nil {
				return nil
			}
			continue
		}
		if ended {
			return nil
		}
		if more {
			wait = pollFirst
		}
		if look || wait == pollLast {
			alive, err := running(ctx)
			ended, look = err != nil || !alive, false
		}
		if ended {
			continue // once more, for what it wrote last
		}
		if !pause(ctx, wait) {
			return nil
		}
		wait = min(2*wait, pollLast)
	}
}

// drain copies the lines up to the present end of the file, and says whether there were any.
func (c *logCopy) drain(ctx context.Context, reader *bufio.Reader) (more bool, err error) {
	for ctx.Err() == nil {
		chunk, err := reader.ReadSlice('\n')
		if len(c.pending)+len(chunk) > maxLine {
			return more, fmt.Errorf("a log line has more than %d bytes", maxLine)
		}
		c.pending = append(c.pending, chunk...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF):
			return more, nil // what is pending is a line the runtime is still writing
		case err != nil:
			return more, err
		}
		more = true
		line := c.pending
		c.pending = c.pending[:0]
		if err := c.write(line); err != nil {
			return more, err
		}
	}
	return more, nil
}

// write writes a line if it was asked for.
func (c *logCopy) write(line []byte) error {
	l, err := parseLogLine(line)
	if err != nil {
		return err
	}
	if l.time.Before(c.since) || c.stream != "" && l.stream != c.stream {
		return nil
	}
	text := l.text
	if c.timestamps && !c.partial {
		text = append([]byte(l.time.Format(logStamp)+" "), text...)
	}
	c.partial = l.partial
	if c.left >= 0 && int64(len(text)) > c.left {
		text = text[:c.left]
	}
	if _, err := c.out.Write(text); err != nil {
		return err
	}
	if c.left >= 0 {
		if c.left -= int64(len(text)); c.left == 0 {
			return errLimit
		}
	}
	return nil
}

// logLine is "<time> <stream> <tags> <text>\n" as the runtime writes it. The text of a partial line has
// no end of line.
type logLine struct {
	time    time.Time
	stream  string
	partial bool
	text    []byte
}

// parseLogLine reads a line of a CRI log. The text shares memory with line.
func parseLogLine(line []byte) (logLine, error) {
	stamp, rest, ok1 := bytes.Cut(line, []byte(" "))
	stream, rest, ok2 := bytes.Cut(rest, []byte(" "))
	tags, text, ok3 := bytes.Cut(rest, []byte(" "))
	if !ok1 || !ok2 || !ok3 {
		return logLine{}, fmt.Errorf("log line %q is not in the CRI format", line)
	}
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return logLine{}, fmt.Errorf("log line %q: %w", line, err)
	}
	tag, _, _ := bytes.Cut(tags, []byte(":"))
	l := logLine{time: at, stream: string(stream), partial: string(tag) == "P", text: text}
	if l.partial {
		l.text = bytes.TrimSuffix(text, []byte("\n"))
	}
	return l, nil
}

// seekTail goes to where the last n lines begin.
func seekTail(ctx context.Context, file *os.File, n int64) error {
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil || n == 0 {
		return err
	}
	// The end of line that the file ends with belongs to the last line.
	const block = 64 << 10
	buf := make([]byte, block)
	for end := size; end > 0 && ctx.Err() == nil; {
		start := max(end-block, 0)
		part := buf[:end-start]
		if _, err := file.ReadAt(part, start); err != nil {
			return err
		}
		for i := len(part) - 1; i >= 0; i-- {
			if part[i] != '\n' || start+int64(i) == size-1 {
				continue
			}
			if n--; n == 0 {
				_, err := file.Seek(start+int64(i)+1, io.SeekStart)
				return err
			}
		}
		end = start
	}
	_, err = file.Seek(0, io.SeekStart)
	return err
}

// rotated opens the file that has taken the place of the open one, nil when none has.
func rotated(file *os.File, path string) (*os.File, error) {
	was, err := file.Stat()
	if err != nil {
		return nil, err
	}
	next, err := logs.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	is, err := next.Stat()
	if err != nil || os.SameFile(was, is) {
		next.Close()
		return nil, err
	}
	return next, nil
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
