package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/skiff-k8s/skiff/apiserver/backend/relational"
)

// The statements of a transaction. Each sees what was committed before it began,
// so what follows the lock sees all that has been committed under it before.
const (
	beginStatement = `BEGIN ISOLATION LEVEL READ COMMITTED`
	lockStatement  = `SELECT layout, revision, compacted, dropped FROM skiff_meta WHERE id = 1 FOR UPDATE`

	currentStatement = `SELECT COALESCE((
	SELECT CASE WHEN w.value IS NULL THEN 0 ELSE w.revision END FROM skiff_writes w
	WHERE w.name = k.name ORDER BY w.name DESC, w.revision DESC LIMIT 1
), 0) FROM unnest($1::bytea[]) WITH ORDINALITY AS k (name, place) ORDER BY k.place`

	insertStatement = `INSERT INTO skiff_writes (revision, name, value, expiry)
SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bytea[], $4::bigint[])`
	setHeadStatement   = `UPDATE skiff_meta SET revision = $1, compacted = $2 WHERE id = 1`
	setServerStatement = `INSERT INTO skiff_servers (server, revision, written) VALUES ($1, $2, $3)
ON CONFLICT (server) DO UPDATE SET revision = excluded.revision, written = excluded.written`
	notifyStatement = `SELECT pg_notify('skiff', $1)`
	ownStatement    = `SELECT COALESCE(MAX(revision), 0) FROM skiff_servers WHERE server = $1`

	// A transaction whose server is gone must not keep the others waiting.
	settingsStatement = `SET idle_in_transaction_session_timeout = '15s'`
	durableStatement  = `SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit', true) = 'off'`
)

// closeWait is how long the database may take to be told that a connection is
// closed.
const closeWait = 5 * time.Second

// tx is a transaction on the writer's connection. All up to its decision is one
// message to the database, and all from there to the commit another.
type tx struct{ d *database }

var _ relational.Tx = (*tx)(nil)

func (d *database) Tx(ctx context.Context) (relational.Tx, error) {
	if err := d.connect(ctx); err != nil {
		return nil, err
	}
	return &tx{d}, nil
}

// connect makes the connection for writing if there is none.
func (d *database) connect(ctx context.Context) error {
	if d.writer != nil && !d.writer.IsClosed() {
		return nil
	}
	conn, err := pgx.ConnectConfig(ctx, d.config)
	if err != nil {
		return err
	}
	for _, statement := range []string{settingsStatement, durableStatement} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return errors.Join(err, conn.Close(ctx))
		}
	}
	d.writer = conn
	return nil
}

func (d *database) disconnect() {
	if d.writer == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeWait)
	defer cancel()
	_ = d.writer.Close(ctx) // whatever it says, it is closed
	d.writer = nil
}

func (t *tx) Begin(ctx context.Context, keys []string) (h relational.Head, current map[string]int64, err error) {
	current = make(map[string]int64, len(keys))
	names := make([][]byte, len(keys))
	for i, key := range keys {
		names[i] = []byte(key)
	}
	var batch pgx.Batch
	batch.Queue(beginStatement)
	batch.Queue(lockStatement).QueryRow(func(row pgx.Row) error {
		return row.Scan(&h.Layout, &h.Revision, &h.Compacted, &h.Dropped)
	})
	batch.Queue(currentStatement, names).Query(func(rows pgx.Rows) error {
		for _, key := range keys {
			var revision int64
			if !rows.Next() {
				break
			}
			if err := rows.Scan(&revision); err != nil {
				return err
			}
			current[key] = revision // backend.Absent, which is 0, if it has none
		}
		return rows.Err()
	})
	err = t.d.writer.SendBatch(ctx, &batch).Close()
	return h, current, err
}

func (t *tx) Own(ctx context.Context, server int64) (revision int64, err error) {
	err = t.d.writer.QueryRow(ctx, ownStatement, server).Scan(&revision)
	return revision, err
}

func (t *tx) Commit(ctx context.Context, head relational.Head, server int64, writes []relational.Write) error {
	var batch pgx.Batch
	revisions, names := make([]int64, len(writes)), make([][]byte, len(writes))
	values, expiries := make([][]byte, len(writes)), make([]*int64, len(writes))
	for i, w := range writes {
		revisions[i], names[i], values[i] = w.Revision, []byte(w.Key), w.Value
		if w.Expiry != 0 {
			expiries[i] = &w.Expiry
		}
	}
	batch.Queue(insertStatement, revisions, names, values, expiries)
	batch.Queue(setHeadStatement, head.Revision, head.Compacted)
	batch.Queue(setServerStatement, server, head.Revision, time.Now().Unix())
	if t.d.notify {
		batch.Queue(notifyStatement, fmt.Sprintf("%d %d", server, head.Revision))
	}
	batch.Queue("COMMIT")
	return t.d.writer.SendBatch(ctx, &batch).Close()
}

func (t *tx) Rollback(ctx context.Context) {
	if t.d.writer.IsClosed() {
		return
	}
	if _, err := t.d.writer.Exec(ctx, "ROLLBACK"); err != nil {
		t.d.disconnect()
	}
}
