// Package sqlite is the engine behind sqlite:///path: one SQLite database, used
// by one process at a time.
//
// The database is in WAL mode and synced at every commit, so an acknowledged
// write survives kill -9 and power loss. Writes that arrive while a transaction
// is being synced share the next one. Other programs may read the file, and copy
// it with SQLite's own means, while it is in use. What compaction frees is used
// again, and most of it is given back to the file system while serving.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/relational"
)

const (
	// application marks our databases in the header of the file ("skif").
	application = 0x736b6966
	// readers is how many reads run at a time.
	readers = 4
	// maxBatch is how many bytes a transaction has.
	maxBatch = 8 << 20
)

// ErrForeign: the file is a database of another program.
var ErrForeign = errors.New("file is a database of another program")

// Open opens the database at path, and makes it and its directory if they are
// not there. It must be closed. backend.ErrInUse, ErrForeign.
func Open(path string) (*relational.Backend, error) {
	db, err := open(path)
	if err != nil {
		return nil, fmt.Errorf("open storage %s: %w", path, err)
	}
	b, err := relational.Open(context.Background(), db)
	if err != nil {
		return nil, fmt.Errorf("open storage %s: %w", path, err)
	}
	return b, nil
}

// database is the two ways to one file: SQLite has one writer at a time, so one
// connection for writing keeps order better than its locks do.
type database struct {
	lock        *os.File // locked
	read, write *sql.DB
	current     *sql.Stmt // of write, as all that follow
	insert      *sql.Stmt
	setHead     *sql.Stmt
	setServer   *sql.Stmt
}

var _ relational.Database = (*database)(nil)

func open(path string) (_ *database, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	d := &database{}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	if d.lock, err = lock(path + ".lock"); err != nil {
		return nil, err
	}
	if err := create(path); err != nil {
		return nil, err
	}
	if err := claim(path); err != nil {
		return nil, err
	}
	writing := url.Values{"_txlock": {"immediate"}, "_pragma": {"journal_mode=wal", "synchronous=full"}}
	if d.write, err = sql.Open("sqlite", source(path, writing)); err != nil {
		return nil, err
	}
	d.write.SetMaxOpenConns(1)
	if d.read, err = sql.Open("sqlite", source(path, url.Values{"_pragma": {"query_only=on"}})); err != nil {
		return nil, err
	}
	d.read.SetMaxOpenConns(readers)
	d.read.SetMaxIdleConns(readers)
	return d, nil
}

// lock locks a file beside the database. The database itself has locks that
// end when any descriptor of it is closed.
func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, backend.ErrInUse
		}
		return nil, fmt.Errorf("lock: %w", err)
	}
	return f, nil
}

// create makes an empty file that others cannot read, if there is none.
func create(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	f.Close()
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// source names a file to the driver.
func source(path string, options url.Values) string {
	u := url.URL{Scheme: "file", Path: path, RawQuery: options.Encode()}
	return u.String()
}

// claim marks an empty file as ours and refuses one that is not, without a
// change to it.
func claim(path string) error {
	mark, tables, err := look(path, "ro")
	if unfinished(err) {
		mark, tables, err = look(path, "rw")
	}
	switch {
	case err != nil || mark == application:
		return err
	case mark != 0 || tables > 0:
		return ErrForeign
	}
	return with(source(path, nil), func(db *sql.DB) error {
		// Whether a file can shrink must be said before it has anything in it.
		_, err := db.Exec("PRAGMA auto_vacuum = incremental; PRAGMA application_id = " + strconv.Itoa(application))
		return err
	})
}

// look reads the mark of a file, and how many tables and the like it has.
func look(path, mode string) (mark, tables int, err error) {
	err = with(source(path, url.Values{"mode": {mode}}), func(db *sql.DB) error {
		return errors.Join(
			db.QueryRow("PRAGMA application_id").Scan(&mark),
			db.QueryRow("SELECT COUNT(*) FROM sqlite_schema").Scan(&tables),
		)
	})
	return mark, tables, err
}

// unfinished reports whether a file cannot be read before a transaction is taken
// back that power was lost in, which needs the right to write.
func unfinished(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == lib.SQLITE_READONLY
}

// with opens a database for a moment.
func with(source string, do func(*sql.DB) error) error {
	db, err := sql.Open("sqlite", source)
	if err != nil {
		return err
	}
	return errors.Join(do(db), db.Close())
}

// Close gives the file to other processes.
func (d *database) Close() (err error) {
	for _, db := range []*sql.DB{d.read, d.write} {
		if db != nil {
			err = errors.Join(err, db.Close())
		}
	}
	if d.lock != nil {
		err = errors.Join(err, d.lock.Close())
	}
	return err
}

func (d *database) Name() string                                     { return "SQLite" }
func (d *database) Shared() bool                                     { return false }
func (d *database) Poll(bool) time.Duration                          { return time.Hour }
func (d *database) MaxBatch() int                                    { return maxBatch }
func (d *database) Listen(context.Context, int64, func(int64)) error { return nil }

func (d *database) Schema() []string {
	return []string{
		`CREATE TABLE IF NOT EXISTS skiff_writes (revision INTEGER PRIMARY KEY, name BLOB NOT NULL, value BLOB, expiry INTEGER)`,
		`CREATE INDEX IF NOT EXISTS skiff_writes_name ON skiff_writes (name)`, // and revision, as every index
		`CREATE INDEX IF NOT EXISTS skiff_writes_expiry ON skiff_writes (expiry) WHERE expiry IS NOT NULL`,
		`CREATE TABLE IF NOT EXISTS skiff_servers (server INTEGER PRIMARY KEY, revision INTEGER NOT NULL, written INTEGER NOT NULL)`,
		`CREATE TABLE IF NOT EXISTS skiff_meta (id INTEGER PRIMARY KEY, layout INTEGER NOT NULL, revision INTEGER NOT NULL,
			compacted INTEGER NOT NULL, dropped INTEGER NOT NULL)`,
	}
}

func (d *database) Query(ctx context.Context, statement string, args ...any) (*sql.Rows, error) {
	return d.read.QueryContext(ctx, statement, args...)
}

func (d *database) Exec(ctx context.Context, statement string, args ...any) error {
	_, err := d.write.ExecContext(ctx, statement, args...)
	return err
}

func (d *database) Among(column string, numbers []int64) (string, []any) {
	return relational.In(column, numbers), nil
}

// Class of errors: there is nothing that could be away.
func (d *database) Class(err error) relational.Class {
	var e *sqlite.Error
	if errors.As(err, &e) {
		switch e.Code() & 0xff {
		case lib.SQLITE_BUSY, lib.SQLITE_LOCKED:
			return relational.Busy
		}
	}
	return relational.Refused
}

// Shrink gives pages back that are not used, if they are many: some are soon
// used again.
func (d *database) Shrink(ctx context.Context) error {
	var free, pages int
	if err := d.write.QueryRowContext(ctx, "PRAGMA freelist_count").Scan(&free); err != nil {
		return err
	}
	if err := d.write.QueryRowContext(ctx, "PRAGMA page_count").Scan(&pages); err != nil {
		return err
	}
	for surplus := free - max(keepPages, pages/4); surplus > 0; surplus -= shrinkPages {
		if _, err := d.write.ExecContext(ctx, fmt.Sprintf("PRAGMA incremental_vacuum(%d)", min(surplus, shrinkPages))); err != nil {
			return err
		}
	}
	// The log is as large as the most that was in it at a time, and the file
	// shrinks when what is in the log goes to it. Who reads at this moment keeps
	// it from that; the next compaction tries again.
	_, err := d.write.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)")
	return err
}

const (
	keepPages   = 256 // 1 MiB
	shrinkPages = 500 // that a transaction gives back, so that writes get in between
)
