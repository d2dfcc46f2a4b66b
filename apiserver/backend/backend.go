// Package backend is the contract between Skiff and the database it keeps its
// objects in: bytes under keys, and revisions. A new engine is one package
// that passes backendtest.Run.
package backend

import (
	"context"
	"errors"
	"iter"
	"time"
)

// Errors a Backend returns, possibly wrapped.
var (
	// ErrNotFound: the key holds no value.
	ErrNotFound = errors.New("key not found")
	// ErrConflict: the key is not at the revision the caller expected. It is
	// also what deleting a missing key gives when a revision was expected.
	ErrConflict = errors.New("key is at another revision")
	// ErrCompacted: the revision asked for is older than the history kept.
	ErrCompacted = errors.New("revision has been compacted")
	// ErrFuture: the revision asked for has not been made yet.
	ErrFuture = errors.New("revision is in the future")
	// ErrClosed: the backend was closed.
	ErrClosed = errors.New("backend is closed")
	// ErrNotEmpty: something was written before that Load would mix with.
	ErrNotEmpty = errors.New("database is not empty")
	// ErrPartial: a Load did not come to its end, so that what is there is no
	// state that ever was.
	ErrPartial = errors.New("database was filled in part only: empty it and fill it again")
	// ErrUnavailable: the database has been away for longer than an operation
	// waits for it. A write that fails so may have happened.
	ErrUnavailable = errors.New("storage is unavailable")
	// ErrInUse: another process has the database open, which takes one only.
	ErrInUse = errors.New("storage file is in use by another process")
)

// Absent is the expected revision of a key that must not exist.
const Absent int64 = 0

// MaxValue is what every engine takes under a key, in bytes, together with three
// times the key and 64 more. It is what etcd takes in a request.
const MaxValue = 3 << 19

// Entry is a key with its value at the revision that wrote it. Value is shared
// and must not be changed.
type Entry struct {
	Key      string
	Value    []byte
	Revision int64
	// End is when the lifetime of the value ends, to the second; zero: never.
	End time.Time
}

// Change is one write, at its revision. Value is nil for a delete; it is shared
// and must not be changed.
type Change struct {
	Key      string
	Value    []byte
	Revision int64
	// More says that the next change is of the same revision, which is reached
	// only then: where lifetimes end, a database may delete many keys at once.
	More bool
}

// Page is part of the entries below a prefix, in ascending order of keys.
type Page struct {
	Entries []Entry
	// Revision is the one the page shows: the one asked for, or the newest.
	Revision int64
	// More is how many entries follow, counted exactly.
	More int64
}

// Backend keeps values under keys. Every Put and Delete has a revision of its own,
// greater than all before it, in the order of commits, also when several
// servers share a database. All methods may be called concurrently. A write
// that returned without error survives a crash of the process and of the
// machine (memory:// excepted).
type Backend interface {
	// Get reads a key at the newest revision; ErrNotFound if it is not there.
	// revision is the newest of the backend either way.
	Get(ctx context.Context, key string) (entry Entry, revision int64, err error)
	// List reads up to limit (0: all) entries whose keys begin with prefix and
	// follow after, as they were at a revision (0: the newest). ErrCompacted,
	// ErrFuture.
	List(ctx context.Context, prefix, after string, limit int, revision int64) (Page, error)
	// Put writes value, which must not be changed afterwards, if key is at the
	// expected revision (Absent: not there), else ErrConflict. nil is an empty
	// value, and comes back as one that is not nil. lifetime 0 means for ever; a
	// key is deleted, as by Delete, some time after its lifetime has passed, also
	// if the database was closed meanwhile. A write whose ctx ends may happen.
	Put(ctx context.Context, key string, value []byte, expected int64, lifetime time.Duration) (revision int64, err error)
	// Delete removes key if it is at the expected revision, else ErrConflict.
	Delete(ctx context.Context, key string, expected int64) (revision int64, err error)
	// Watch yields every change below prefix after a revision, once each and in
	// order, until ctx ends or an error is yielded: ErrCompacted when changes
	// after the revision are gone, ErrClosed. Between changes it may yield a
	// Change with an empty Key, which says that all changes up to its Revision
	// have been seen (progress).
	Watch(ctx context.Context, prefix string, after int64) iter.Seq2[Change, error]
	// Revision is the newest revision; before the first write one that is less than that of the first write.
	Revision(ctx context.Context) (int64, error)
	// Compact forgets history up to and including a revision; values that are
	// still current stay. Lists at the revision, and watches after it, stay
	// possible. To compact what is compacted does nothing. It may make a revision.
	// ErrFuture.
	Compact(ctx context.Context, revision int64) error
	// Close ends all watches and releases the database, once the calls under way
	// have ended; others get ErrClosed. It may be called again.
	Close() error
}

// Loader is a Backend that can be filled with what another one holds, so that
// clients of that one can go on with this one. Every engine is one.
type Loader interface {
	// Load puts writes, with their revisions and ends of lifetimes, into a
	// backend that was never written to; ErrNotEmpty. They come in ascending order
	// of revisions: up to compacted the one that each key has its value from; after
	// it one for every revision up to the newest, those without a Value (nil) being
	// deletes. History up to compacted counts as compacted.
	//
	// Load is for a backend that nobody else uses yet. If it fails, or the process
	// ends before it has, either the database is as empty as before, or writes of
	// this backend, and everyone who opens the database, get ErrPartial.
	Load(ctx context.Context, writes iter.Seq[Entry], compacted, newest int64) error
}

// Stepper is a Loader that comes to a revision only by making each one before it, which
// takes time.
type Stepper interface {
	Loader
	// MostSteps is how many revisions that nothing is written at a Load makes.
	MostSteps() int64
}
