package snapshot

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/skiff-k8s/skiff/apiserver/backend"
)

// A backup is
//
//	"skiff backup 1\n"
//	a zstd stream of records
//	the SHA-256 of all bytes before it
//
// Numbers are varints, unsigned but for times, which are milliseconds since 1970.
// The first record is the revision of the backup and the time when it was begun.
// Every other begins with a byte that says what it is:
//
//	1  an entry: revision, end of the lifetime (0: none), length of the key, key, length of the value, value
//	2  the end: the number of entries
//	3  the end, as the backup could not be completed: length of a text, the text
//
// Entries come in ascending order of keys.
const (
	magic = "skiff backup "
	first = magic + "1\n"
)

const (
	recordEntry  = 1
	recordEnd    = 2
	recordFailed = 3
)

// What a reader takes, which is more than any engine does.
const (
	maxKey   = 1 << 16
	maxValue = 1 << 26
	window   = 1 << 20 // of the compression
)

var (
	// ErrNoBackup: a file is something else.
	ErrNoBackup = errors.New("this is no backup")
	// ErrTruncated: the end of a backup is missing.
	ErrTruncated = errors.New("the end of the backup is missing")
	// ErrChanged: a backup is not as it was written.
	ErrChanged = errors.New("the backup is damaged")
	// ErrIncomplete: who wrote the backup could not complete it.
	ErrIncomplete = errors.New("the backup could not be completed when it was made")
)

// Write writes a backup of b at its newest revision. Others may write to b
// meanwhile, and compact it, but for the revision of the backup: Write ends with
// backend.ErrCompacted then. The backup itself says so if it is not complete.
func Write(ctx context.Context, w io.Writer, b backend.Backend, tell Progress) error {
	sum := sha256.New()
	out := io.MultiWriter(w, sum)
	if _, err := io.WriteString(out, first); err != nil {
		return err
	}
	z, err := zstd.NewWriter(out, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(window))
	if err != nil {
		return err
	}
	failed := writeRecords(ctx, z, b, tell)
	if failed != nil {
		record := binary.AppendUvarint([]byte{recordFailed}, uint64(len(failed.Error())))
		if _, err := z.Write(append(record, failed.Error()...)); err != nil {
			return failed
		}
	}
	if err := z.Close(); err != nil {
		return errors.Join(failed, err)
	}
	_, err = w.Write(sum.Sum(nil))
	return errors.Join(failed, err)
}

func writeRecords(ctx context.Context, w io.Writer, b backend.Backend, tell Progress) error {
	done := 0
	for page, err := range Pages(ctx, b, 0) {
		if err != nil {
			return err
		}
		if len(page.Entries) == 0 {
			return ErrNothing
		}
		var records []byte
		if done == 0 {
			records = binary.AppendUvarint(records, uint64(page.Revision))
			records = binary.AppendVarint(records, time.Now().UnixMilli())
		}
		for _, e := range page.Entries {
			records = appendEntry(records, e)
		}
		if _, err := w.Write(records); err != nil {
			return err
		}
		done += len(page.Entries)
		tell(done, done+int(page.More))
	}
	_, err := w.Write(binary.AppendUvarint([]byte{recordEnd}, uint64(done)))
	return err
}

func appendEntry(b []byte, e backend.Entry) []byte {
	end := int64(0)
	if !e.End.IsZero() {
		end = e.End.UnixMilli()
	}
	b = binary.AppendUvarint(append(b, recordEntry), uint64(e.Revision))
	b = binary.AppendVarint(b, end)
	b = binary.AppendUvarint(b, uint64(len(e.Key)))
	b = append(b, e.Key...)
	b = binary.AppendUvarint(b, uint64(len(e.Value)))
	return append(b, e.Value...)
}

// Reader reads a backup. Only when all entries were read without an error, they
// are what was written.
type Reader struct {
	Revision int64
	Time     time.Time

	body    *body
	records *bufio.Reader
	close   func()
}

// NewReader reads the beginning of a backup. The reader must be closed.
// ErrNoBackup, ErrTruncated, ErrChanged.
func NewReader(r io.Reader) (*Reader, error) {
	b := &body{in: bufio.NewReaderSize(r, 1<<16), sum: sha256.New()}
	begin, err := b.in.Peek(len(first))
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return nil, err
	case !bytes.HasPrefix(begin, []byte(magic)) && !bytes.HasPrefix([]byte(magic), begin):
		return nil, ErrNoBackup
	case err != nil:
		return nil, ErrTruncated
	case string(begin) != first:
		return nil, fmt.Errorf("the backup is of another version: it begins with %q, this version reads %q", begin, first)
	}
	reader := &Reader{body: b}
	if _, err := io.ReadFull(b, make([]byte, len(first))); err != nil {
		return nil, reader.wrong(err)
	}
	z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8*window))
	if err != nil {
		return nil, err
	}
	reader.records, reader.close = bufio.NewReader(z), z.Close
	revision, err := binary.ReadUvarint(reader.records)
	if err == nil {
		reader.Revision = int64(revision)
		var at int64
		at, err = binary.ReadVarint(reader.records)
		reader.Time = time.UnixMilli(at)
	}
	if err == nil && reader.Revision <= 0 {
		err = fmt.Errorf("revision is %d", reader.Revision)
	}
	if err != nil {
		z.Close()
		return nil, reader.wrong(err)
	}
	return reader, nil
}

// Close releases what the reader holds.
func (r *Reader) Close() { r.close() }

// Entries yields the entries. The last is followed by an error if the backup is not
// as it was written, or not complete. ErrTruncated, ErrChanged, ErrIncomplete.
func (r *Reader) Entries() iter.Seq2[backend.Entry, error] {
	return func(yield func(backend.Entry, error) bool) {
		last := ""
		for n := uint64(0); ; n++ {
			kind, err := r.records.ReadByte()
			if err != nil {
				yield(backend.Entry{}, r.wrong(err))
				return
			}
			if kind != recordEntry {
				if err := r.end(kind, n); err != nil {
					yield(backend.Entry{}, r.wrong(err))
				}
				return
			}
			e, err := r.entry()
			if err == nil && (e.Key <= last || e.Revision <= 0 || e.Revision > r.Revision) {
				err = fmt.Errorf("entry %q at %d follows %q in a backup at %d", e.Key, e.Revision, last, r.Revision)
			}
			if err != nil {
				yield(backend.Entry{}, r.wrong(err))
				return
			}
			last = e.Key
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (r *Reader) entry() (e backend.Entry, err error) {
	revision, err := binary.ReadUvarint(r.records)
	if err != nil {
		return e, err
	}
	end, err := binary.ReadVarint(r.records)
	if err != nil {
		return e, err
	}
	key, err := r.text(maxKey)
	if err != nil {
		return e, err
	}
	e = backend.Entry{Key: string(key), Revision: int64(revision)}
	if end != 0 {
		e.End = time.UnixMilli(end)
	}
	e.Value, err = r.text(maxValue)
	return e, err
}

// text reads a length and as many bytes.
func (r *Reader) text(limit uint64) ([]byte, error) {
	length, err := binary.ReadUvarint(r.records)
	if err != nil {
		return nil, err
	}
	if length > limit {
		return nil, fmt.Errorf("something is %d bytes long", length)
	}
	// What is there decides how much memory is taken, not what is said of it.
	var b bytes.Buffer
	if _, err := io.CopyN(&b, r.records, int64(length)); err != nil {
		return nil, err
	}
	if length == 0 {
		return []byte{}, nil // nil would be a deletion
	}
	return b.Bytes(), nil
}

// end reads the last record and what is after it, after n entries.
func (r *Reader) end(kind byte, n uint64) error {
	var failed error
	switch kind {
	case recordEnd:
		count, err := binary.ReadUvarint(r.records)
		if err != nil {
			return err
		}
		if count != n {
			return fmt.Errorf("it has %d entries and says %d", n, count)
		}
	case recordFailed:
		text, err := r.text(maxKey)
		if err != nil {
			return err
		}
		failed = fmt.Errorf("%w: %s", ErrIncomplete, text)
	default:
		return fmt.Errorf("a record is of kind %d", kind)
	}
	switch _, err := r.records.ReadByte(); {
	case err == nil:
		return errors.New("something follows its end")
	case !errors.Is(err, io.EOF):
		return err
	}
	if err := r.body.check(); err != nil {
		return err
	}
	return failed
}

// wrong says what an error that was met while reading means.
func (r *Reader) wrong(err error) error {
	switch {
	case errors.Is(err, ErrIncomplete) || errors.Is(err, ErrChanged):
		return err
	case r.body.failed != nil:
		return fmt.Errorf("read the backup: %w", r.body.failed)
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return ErrTruncated
	}
	return fmt.Errorf("%w: %w", ErrChanged, err)
}

// body is all of a file but the sum at its end, which is of the body.
type body struct {
	in     *bufio.Reader
	sum    hash.Hash
	failed error // of the file
}

func (b *body) Read(p []byte) (int, error) {
	ahead, err := b.in.Peek(min(len(p)+sha256.Size, b.in.Size()))
	if err != nil && !errors.Is(err, io.EOF) {
		b.failed = err
		return 0, err
	}
	n := len(ahead) - sha256.Size
	if n <= 0 {
		return 0, io.EOF
	}
	n = copy(p, ahead[:n])
	b.sum.Write(p[:n])
	_, err = b.in.Discard(n)
	return n, err
}

// check compares the sum with that of what was read, which must be everything.
func (b *body) check() error {
	if n, err := b.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: something follows its end", ErrChanged)
	}
	want, err := io.ReadAll(b.in)
	if err != nil {
		b.failed = err
		return err
	}
	if !bytes.Equal(want, b.sum.Sum(nil)) {
		return fmt.Errorf("%w: its checksum is not that of its content", ErrChanged)
	}
	return nil
}
