package file

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/skiff-k8s/skiff/apiserver/backend"
)

func openTest(t *testing.T) *Backend {
	t.Helper()
	b, err := Open(filepath.Join(t.TempDir(), "skiff.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// After an error that may have lost pages nothing is written any more, but
// everything can be read.
func TestBroken(t *testing.T) {
	b := openTest(t)
	r, err := b.Put(t.Context(), "/a", []byte("1"), backend.Absent, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.failed(fmt.Errorf("write storage: %w", syscall.ENOSPC)); b.broken != nil {
		t.Fatalf("a full disk ends writing: %v", err)
	}
	b.failed(fmt.Errorf("write storage: %w", syscall.EIO))
	if _, err := b.Put(t.Context(), "/b", nil, backend.Absent, 0); !errors.Is(err, syscall.EIO) {
		t.Errorf("put: got %v, want the error that ended writing", err)
	}
	if err := b.Compact(t.Context(), r); !errors.Is(err, syscall.EIO) {
		t.Errorf("compact: got %v, want the error that ended writing", err)
	}
	if entry, _, err := b.Get(t.Context(), "/a"); err != nil || string(entry.Value) != "1" {
		t.Errorf("get: got %q, %v, want 1", entry.Value, err)
	}
	if revision, err := b.Revision(t.Context()); revision != r || err != nil {
		t.Errorf("revision: got %d, %v, want %d", revision, err, r)
	}
}

// A write that comes second to one that fails has no conflict with it: nothing
// was written.
func TestBehindFailure(t *testing.T) {
	b := openTest(t)
	b.broken = syscall.EIO
	batch := make([]*request, 2)
	for i := range batch {
		batch[i] = &request{record: record{key: "/a", value: []byte("x")}, expected: backend.Absent, done: make(chan struct{})}
	}
	b.commit(batch)
	for i, r := range batch {
		if !errors.Is(r.err, syscall.EIO) {
			t.Errorf("create %d of 2: got %v, want the error of the disk", i+1, r.err)
		}
	}
}

// What a transaction left behind that failed in its last sync is not there for
// readers, and makes room for the writes that get its revisions.
func TestLeftovers(t *testing.T) {
	b := openTest(t)
	r, err := b.Put(t.Context(), "/a", []byte("1"), backend.Absent, 0)
	if err != nil {
		t.Fatal(err)
	}
	var lost []*request
	for i := range int64(3) {
		lost = append(lost, &request{revision: r + 1 + i, record: record{key: fmt.Sprint("/lost/", i), value: []byte("x")}})
	}
	if err := b.store(lost); err != nil { // but not published
		t.Fatal(err)
	}
	if _, err := b.Put(t.Context(), "/b", []byte("2"), backend.Absent, 0); err != nil {
		t.Fatal(err)
	}
	path := b.path
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if b, err = Open(path); err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	page, err := b.List(t.Context(), "", "", 0, 0)
	if err != nil || len(page.Entries) != 2 || page.Revision != r+1 || page.Entries[1].Key != "/b" {
		t.Errorf("after opening anew: got %v, %v, want /a and /b at %d", page, err, r+1)
	}
}

// A watch that is far behind reads large changes a few at a time.
func TestOlder(t *testing.T) {
	b := openTest(t)
	const writes = 40
	value := make([]byte, 1<<20)
	var at int64
	for range writes {
		var err error
		if at, err = b.Put(t.Context(), "/a", value, at, 0); err != nil {
			t.Fatal(err)
		}
	}
	for after := int64(0); after < at; {
		changes, err := b.older(after)
		if err != nil || len(changes) == 0 || changes[0].Revision != after+1 {
			t.Fatalf("after %d: got %d changes, %v, want the next", after, len(changes), err)
		}
		if held := len(changes) * len(value); held > olderBytes+len(value) {
			t.Errorf("after %d: %d bytes were read at a time, want up to %d", after, held, olderBytes)
		}
		after = changes[len(changes)-1].Revision
	}
}

func TestRecord(t *testing.T) {
	good := record{key: "/a", value: []byte("value")}.encode()
	for _, c := range []struct{ name, bytes string }{
		{"empty", ""},
		{"flags only", "\x00"},
		{"no end", "\x00\x0e"},
		{"key longer than the record", "\x00\x0e\x00\xff\x01abc"},
		{"varint without end", "\x00" + strings.Repeat("\xff", 12)},
	} {
		if _, err := decodeRecord([]byte(c.bytes)); !errors.Is(err, errRecord) {
			t.Errorf("%s: got %v, want %v", c.name, err, errRecord)
		}
	}
	// Earlier versions wrote a number after the flags that has no use any more.
	good = slices.Replace(good, 1, 2, binary.AppendVarint(nil, 300)...)
	if r, err := decodeRecord(good); err != nil || r.key != "/a" || string(r.value) != "value" || r.deleted || !r.end.IsZero() {
		t.Errorf("got %+v, %v, want what was encoded", r, err)
	}
}
