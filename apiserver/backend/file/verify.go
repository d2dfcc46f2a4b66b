package file

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
)

// ErrDamaged: the file is a database, but parts of it are missing or
// overwritten.
var ErrDamaged = errors.New("storage file is damaged")

// verify reads all of a database that somebody may have damaged. bbolt takes a
// file for sound: at a damaged page it panics, in part on goroutines of its
// own, and reading what was cut off ends the process by SIGBUS. Both are found
// here, before the file is opened for writing, and are an error.
func verify(path string) (err error) {
	if info, err := os.Stat(path); err != nil || info.Size() == 0 {
		return nil // opening it makes it, or says what is wrong
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: lockTimeout})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", ErrDamaged, p)
		}
	}()
	return db.View(func(tx *bbolt.Tx) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if info.Size() < tx.Size() {
			return fmt.Errorf("%w: it has %d of %d bytes", ErrDamaged, info.Size(), tx.Size())
		}
		return tx.ForEach(func(_ []byte, b *bbolt.Bucket) error { return verifyBucket(b) })
	})
}

// lockTimeout is how long to wait for another process; 0 would wait for ever.
const lockTimeout = time.Millisecond

func verifyBucket(b *bbolt.Bucket) error {
	var last []byte
	return b.ForEach(func(k, _ []byte) error {
		if last != nil && bytes.Compare(last, k) >= 0 {
			return fmt.Errorf("%w: key %x is out of order", ErrDamaged, k)
		}
		last = k
		return nil
	})
}
