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
)

const format = "skiff storage 1"

// record is one write: a value, or a delete.
type record struct {
	deleted bool
	old     int64     // revision of the value it replaced; 0: none
	end     time.Time // of the value's lifetime; zero: none
	key     string
	value   []byte
}

// A record is stored as a byte of flags, the old revision, the end (in
// milliseconds since 1970; 0: none) and the length of the key as varints, the
// key and the value.
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
	b = binary.AppendVarint(b, r.old)
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
	old, n := binary.Varint(b)
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
	r.old, r.key, r.value = old, string(b[:length]), b[length:]
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

// valueAt copies the value that was written at a revision.
func valueAt(tx *bbolt.Tx, revision int64) ([]byte, error) {
	stored := tx.Bucket(logBucket).Get(revisionKey(revision))
	r, err := decodeRecord(stored)
	if err != nil {
		return nil, fmt.Errorf("read revision %d: %w", revision, err)
	}
	return append([]byte{}, r.value...), nil
}

func entryOf(tx *bbolt.Tx, key string, revision int64) (backend.Entry, error) {
	value, err := valueAt(tx, revision)
	return backend.Entry{Key: key, Value: value, Revision: revision}, err
}

// changesOf reads the changes after a revision up to and including another.
func changesOf(tx *bbolt.Tx, after, until int64) ([]backend.Change, error) {
	var changes []backend.Change
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
		change, err := changeOf(tx, revision, r)
		if err != nil {
			return nil, err
		}
		changes = append(changes, change)
	}
	return changes, nil
}

func changeOf(tx *bbolt.Tx, revision int64, r record) (backend.Change, error) {
	c := backend.Change{Key: r.key, Revision: revision, OldRevision: r.old}
	if !r.deleted {
		c.Value = append([]byte{}, r.value...)
	}
	if r.old == backend.Absent {
		return c, nil
	}
	var err error
	c.Old, err = valueAt(tx, r.old)
	return c, err
}
