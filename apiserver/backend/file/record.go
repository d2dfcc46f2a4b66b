package file

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"github.com/skiff-k8s/skiff/apiserver/backend"
)

// The buckets of the database.
var (
	// log: revision (eight bytes, big endian) → record.
	logBucket = []byte("log")
	// meta: facts about the database, by name.
	metaBucket = []byte("meta")
)

// The keys of meta.
var (
	formatKey    = []byte("format")    // what the file is, and the version of its layout
	compactedKey = []byte("compacted") // the revision up to which history was forgotten, as in log
	partialKey   = []byte("partial")   // there while a load is under way
)

const format = "skiff storage 1"

// record is one write: a value, or a delete.
type record struct {
	deleted bool
	end     time.Time // of the value's lifetime; zero: none
	key     string
	value   []byte
}

// A record is stored as a byte of flags, then as varints a number without a
// meaning (where earlier versions wrote the revision replaced), the end (in
// milliseconds since 1970; 0: none) and the length of the key, then the key and
// the value.
const flagDeleted = 1

var errRecord = errors.New("storage record is damaged")

func (r record) encode() []byte {
	b := make([]byte, 0, 1+3*binary.MaxVarintLen64+len(r.key)+len(r.value))
	var flags byte
	if r.deleted {
		flags = flagDeleted
	}
	var end int64
	if !r.end.IsZero() {
		end = r.end.UnixMilli()
	}
	b = append(b, flags)
	b = binary.AppendVarint(b, 0)
	b = binary.AppendVarint(b, end)
	b = binary.AppendUvarint(b, uint64(len(r.key)))
	b = append(b, r.key...)
	return append(b, r.value...)
}

// decodeRecord reads a record. Its value is part of b.
func decodeRecord(b []byte) (record, error) {
	if len(b) == 0 {
		return record{}, errRecord
	}
	r := record{deleted: b[0]&flagDeleted != 0}
	b = b[1:]
	_, n := binary.Varint(b)
	if n <= 0 {
		return record{}, errRecord
	}
	b = b[n:]
	end, n := binary.Varint(b)
	if n <= 0 {
		return record{}, errRecord
	}
	b = b[n:]
	length, n := binary.Uvarint(b)
	if n <= 0 || length > uint64(len(b)-n) {
		return record{}, errRecord
	}
	b = b[n:]
	r.key, r.value = string(b[:length]), b[length:]
	if end != 0 {
		r.end = time.UnixMilli(end)
	}
	return r, nil
}

func revisionKey(revision int64) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(revision))
}

func revisionOf(key []byte) (int64, error) {
	if len(key) != 8 {
		return 0, fmt.Errorf("revision %x: %w", key, errRecord)
	}
	return int64(binary.BigEndian.Uint64(key)), nil
}

// entryOf copies what was written at a revision.
func entryOf(tx *bbolt.Tx, key string, revision int64) (backend.Entry, error) {
	r, err := decodeRecord(tx.Bucket(logBucket).Get(revisionKey(revision)))
	if err != nil {
		return backend.Entry{}, fmt.Errorf("read revision %d: %w", revision, err)
	}
	return backend.Entry{Key: key, Value: append([]byte{}, r.value...), Revision: revision, End: r.end}, nil
}

// olderBytes is how much of the file changesOf reads, but for the last record.
const olderBytes = 8 << 20

// changesOf reads changes after a revision, the first at least and none after
// until.
func changesOf(tx *bbolt.Tx, after, until int64) ([]backend.Change, error) {
	var changes []backend.Change
	size := 0
	cursor := tx.Bucket(logBucket).Cursor()
	last := revisionKey(until)
	for k, v := cursor.Seek(revisionKey(after + 1)); k != nil && bytes.Compare(k, last) <= 0; k, v = cursor.Next() {
		revision, err := revisionOf(k)
		if err != nil {
			return nil, err
		}
		r, err := decodeRecord(v)
		if err != nil {
			return nil, fmt.Errorf("read revision %d: %w", revision, err)
		}
		r.value = append([]byte{}, r.value...)
		changes = append(changes, r.change(revision))
		if size += len(v); size > olderBytes {
			break
		}
	}
	return changes, nil
}

// copied is a record as it is stored, with its key.
type copied struct{ key, record []byte }

// recordsOf copies records after a revision and none after until, a few at a time.
// more tells that there are others.
func recordsOf(tx *bbolt.Tx, after, until int64) (some []copied, more bool) {
	size := 0
	cursor := tx.Bucket(logBucket).Cursor()
	last := revisionKey(until)
	for k, v := cursor.Seek(revisionKey(after + 1)); k != nil && bytes.Compare(k, last) <= 0; k, v = cursor.Next() {
		if size >= copyBytes || len(some) == copyRecords {
			return some, true
		}
		some = append(some, copied{bytes.Clone(k), bytes.Clone(v)})
		size += len(v)
	}
	return some, false
}

// change is what watchers see of a record, with which they share its value.
func (r record) change(revision int64) backend.Change {
	if r.deleted {
		return backend.Change{Key: r.key, Revision: revision}
	}
	return backend.Change{Key: r.key, Value: r.value, Revision: revision}
}
