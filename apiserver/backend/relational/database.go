package relational

import (
	"context"
	"database/sql"
	"strconv"
	"strings"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend"
)

// Layout is the version of the tables. A server refuses a database with
// another one.
const Layout = 1

// Database is what an engine brings. All statements may be run concurrently.
type Database interface {
	// Name of the kind of database, for messages.
	Name() string
	// Shared: other servers may use the database at the same time.
	Shared() bool
	// Poll is how often to ask the database for changes of other servers, given
	// whether it notifies of them.
	Poll(notified bool) time.Duration
	// Schema makes the tables and indexes that are not there, a statement each.
	Schema() []string
	// Query and Exec run a statement with ? for its arguments, outside of a
	// transaction. Among is the condition that a column is one of some numbers.
	Query(ctx context.Context, statement string, args ...any) (*sql.Rows, error)
	Exec(ctx context.Context, statement string, args ...any) error
	Among(column string, numbers []int64) (condition string, args []any)
	// Tx is a transaction that is yet to begin, on the connection for writing.
	// There is one at a time.
	Tx(ctx context.Context) (Tx, error)
	// MaxBatch is how many bytes the keys and values of a transaction can have,
	// if it has more than one write.
	MaxBatch() int
	// Class says what an error of any statement means.
	Class(err error) Class
	// Listen calls woken with the revision that another server has written, or
	// with 0 once it is sure to hear of them, until ctx ends or the connection is
	// lost. It returns nil if the database has no such thing.
	Listen(ctx context.Context, server int64, woken func(revision int64)) error
	// Shrink gives space that deleted rows took back to others. It may take long.
	Shrink(ctx context.Context) error
	Close() error
}

// Early is a Database that shows commits before it has synced them: if it dies,
// what was read may never have been.
type Early interface {
	Database
	Reader(ctx context.Context) (Reader, error)
}

// Reader is a connection for reading, which ends when the database dies.
type Reader interface {
	Query(ctx context.Context, statement string, args ...any) (*sql.Rows, error)
	// Keep returns when all that was read before is synced.
	Keep(ctx context.Context) error
	Close() error
}

// Tx is a transaction for the writes of a server.
type Tx interface {
	// Begin locks the row of skiff_meta and reads it, and then the revisions of
	// those of the keys that have a value.
	Begin(ctx context.Context, keys []string) (head Head, current map[string]int64, err error)
	// Own is the revision with which this server's newest transaction ended; 0
	// if there was none.
	Own(ctx context.Context, server int64) (int64, error)
	// Commit inserts writes, sets the row and that of the server, and commits.
	// Without writes it makes sure that what was committed before is kept.
	Commit(ctx context.Context, head Head, server int64, writes []Write) error
	// Rollback ends the transaction, however far it came; it is called where
	// Commit was not, or has failed. It always succeeds, if need be by closing the
	// connection.
	Rollback(ctx context.Context)
}

// Head is the row of skiff_meta.
type Head struct {
	Layout    int64
	Revision  int64 // the newest
	Compacted int64 // history up to it has been forgotten
	Dropped   int64 // rows nobody can see any more are gone up to it
}

// Write is a row of skiff_writes.
type Write struct {
	Revision int64
	Key      string
	Value    []byte // nil: deleted
	Expiry   int64  // when the lifetime ends, in ms of the Unix epoch; 0: never
}

// Class is what an error means.
type Class int

// Classes of errors.
const (
	// Refused: it would fail again.
	Refused Class = iota
	// Busy: the database gave the statement up in favour of others; nothing
	// of its transaction has happened, and it will succeed if it is done again.
	Busy
	// Lost: the database cannot be reached, or not now. Whether a commit
	// happened is unknown.
	Lost
)

// Statements that are the same in all databases. The name is what the contract
// calls a key, which is a reserved word. To order by name and revision keeps
// planners from walking along the revisions of all keys. Values come by a join at the end:
// in what is selected from or sorted by, MariaDB puts them into tables on its disk, and
// dies at times when it takes those away (10.11.19, ha_maria::drop_table).
const (
	headStatement = `SELECT layout, revision, compacted, dropped FROM skiff_meta WHERE id = 1`

	keyStatement = `SELECT m.revision, w.revision, w.value, w.expiry
FROM skiff_meta m LEFT JOIN (
	SELECT revision FROM skiff_writes WHERE name = ? ORDER BY name DESC, revision DESC LIMIT 1
) p ON 1 = 1 LEFT JOIN skiff_writes w ON w.revision = p.revision AND w.value IS NOT NULL
WHERE m.id = 1`

	// A page, and on each row how many entries there would be without a limit.
	pageStatement = `SELECT m.revision, m.compacted, p.total, w.name, w.value, w.revision, w.expiry
FROM skiff_meta m LEFT JOIN (
	SELECT l.revision, l.name, COUNT(*) OVER () AS total
	FROM (
		SELECT name, MAX(revision) AS revision FROM skiff_writes
		WHERE name >= ? AND name < ? AND revision <= ? GROUP BY name
	) l JOIN skiff_writes v ON v.revision = l.revision
	WHERE v.value IS NOT NULL
	ORDER BY l.name LIMIT ?
) p ON 1 = 1 LEFT JOIN skiff_writes w ON w.revision = p.revision
WHERE m.id = 1 ORDER BY p.name`

	changesStatement = `SELECT m.revision, m.compacted, w.revision, w.name, w.value
FROM skiff_meta m LEFT JOIN (
	SELECT revision FROM skiff_writes WHERE revision > ? ORDER BY revision LIMIT ?
) p ON 1 = 1 LEFT JOIN skiff_writes w ON w.revision = p.revision
WHERE m.id = 1 ORDER BY p.revision`

	// The writes of a part of history, and which write of the same key each
	// replaced.
	replacedStatement = `SELECT w.revision, CASE WHEN w.value IS NULL THEN 1 ELSE 0 END, (
	SELECT p.revision FROM skiff_writes p WHERE p.name = w.name AND p.revision < w.revision
	ORDER BY p.name DESC, p.revision DESC LIMIT 1
)
FROM skiff_writes w WHERE w.revision > ? AND w.revision <= ?`

	compactedStatement = `UPDATE skiff_meta SET compacted = ? WHERE id = 1 AND compacted < ?`
	droppedStatement   = `UPDATE skiff_meta SET dropped = ? WHERE id = 1 AND dropped < ?`
	dropStatement      = `DELETE FROM skiff_writes WHERE `

	// What is due, but for values that have been replaced.
	dueStatement = `SELECT w.name, w.revision FROM skiff_writes w
WHERE w.expiry <= ? AND NOT EXISTS (SELECT 1 FROM skiff_writes n WHERE n.name = w.name AND n.revision > w.revision)
ORDER BY w.expiry LIMIT ?`

	staleServersStatement = `DELETE FROM skiff_servers WHERE written < ?`
)

// lastKey is greater than every key.
var lastKey = strings.Repeat("\xff", MaxKey+1)

// all is a limit that is none.
const all = 1 << 62

func (b *Backend) selectHead(ctx context.Context) (head Head, err error) {
	err = b.each(ctx, headStatement, nil, &head.Revision, func(rows *sql.Rows) error {
		return rows.Scan(&head.Layout, &head.Revision, &head.Compacted, &head.Dropped)
	})
	if err == nil && head.Layout == 0 {
		err = errNoHead
	}
	return head, err
}

// selectKey reads the value of a key, with Revision 0 if it has none.
func (b *Backend) selectKey(ctx context.Context, key string) (entry backend.Entry, newest int64, err error) {
	var revision, expiry sql.NullInt64
	err = b.each(ctx, keyStatement, []any{[]byte(key)}, &newest, func(rows *sql.Rows) error {
		return rows.Scan(&newest, &revision, &entry.Value, &expiry)
	})
	entry.Key, entry.Revision, entry.End = key, revision.Int64, ending(expiry)
	return entry, newest, err
}

func (b *Backend) selectPage(ctx context.Context, prefix, after string, limit int, revision int64) (backend.Page, error) {
	first, most, at := prefix, int64(all), revision
	if after >= prefix {
		first = after + "\x00"
	}
	if limit > 0 {
		most = int64(limit)
	}
	if revision == 0 {
		at = all
	}
	var page backend.Page
	var head Head
	var total sql.NullInt64
	err := b.each(ctx, pageStatement, []any{[]byte(first), []byte(prefixEnd(prefix)), at, most}, &head.Revision, func(rows *sql.Rows) error {
		var name, value []byte
		var written, expiry sql.NullInt64
		if err := rows.Scan(&head.Revision, &head.Compacted, &total, &name, &value, &written, &expiry); err != nil {
			return err
		}
		if written.Valid {
			page.Entries = append(page.Entries, backend.Entry{Key: string(name), Value: value, Revision: written.Int64, End: ending(expiry)})
		}
		return nil
	})
	switch {
	case err != nil:
		return backend.Page{}, err
	case revision == 0:
		revision = head.Revision
	case revision < head.Compacted:
		return backend.Page{}, backend.ErrCompacted
	case revision > head.Revision:
		return backend.Page{}, backend.ErrFuture
	}
	page.Revision, page.More = revision, total.Int64-int64(len(page.Entries))
	return page, nil
}

// selectChanges reads the head and some changes after a revision.
// backend.ErrCompacted.
func (b *Backend) selectChanges(ctx context.Context, after int64) (head Head, changes []backend.Change, err error) {
	size := 0
	err = b.each(ctx, changesStatement, []any{after, int64(changesBatch)}, &head.Revision, func(rows *sql.Rows) error {
		var revision sql.NullInt64
		var name, value []byte
		if size > changesBytes {
			return nil // the next call reads it
		}
		if err := rows.Scan(&head.Revision, &head.Compacted, &revision, &name, &value); err != nil {
			return err
		}
		if revision.Valid {
			changes = append(changes, backend.Change{Key: string(name), Value: value, Revision: revision.Int64})
			size += len(value)
		}
		return nil
	})
	switch {
	case err != nil:
		return Head{}, nil, err
	case after < head.Compacted:
		return head, nil, backend.ErrCompacted
	}
	return head, changes, contiguous(after, changes)
}

// each runs a query and calls row for every row, which sets seen to the newest
// revision. What was read outlives the database's death.
func (b *Backend) each(ctx context.Context, statement string, args []any, seen *int64, row func(*sql.Rows) error) error {
	early, ok := b.db.(Early)
	if !ok {
		return eachRow(ctx, b.db, statement, args, row)
	}
	reader, err := early.Reader(ctx)
	if err != nil {
		return err
	}
	defer reader.Close()
	if err := eachRow(ctx, reader, statement, args, row); err != nil || *seen <= b.kept.Load() {
		return err
	}
	if err := reader.Keep(ctx); err != nil {
		return err
	}
	raise(&b.kept, *seen)
	return nil
}

// querier runs queries.
type querier interface {
	Query(ctx context.Context, statement string, args ...any) (*sql.Rows, error)
}

func eachRow(ctx context.Context, q querier, statement string, args []any, row func(*sql.Rows) error) error {
	rows, err := q.Query(ctx, statement, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// ending is when a lifetime ends that a row has.
func ending(expiry sql.NullInt64) time.Time {
	if !expiry.Valid {
		return time.Time{}
	}
	return time.UnixMilli(expiry.Int64)
}

// End is the expiry as an argument of a statement.
func (w Write) End() any {
	if w.Expiry == 0 {
		return nil
	}
	return w.Expiry
}

// In is the condition that a column is one of some numbers, with the numbers in
// its text.
func In(column string, numbers []int64) string {
	text := []byte(column + " IN (")
	for i, n := range numbers {
		if i > 0 {
			text = append(text, ',')
		}
		text = strconv.AppendInt(text, n, 10)
	}
	return string(append(text, ')'))
}
