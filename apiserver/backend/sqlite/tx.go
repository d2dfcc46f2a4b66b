package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend/relational"
)

// tx is a transaction of the writer. SQLite is in this process, so a statement
// for each key costs no more than one for all.
type tx struct {
	*sql.Tx
	d *database
}

var _ relational.Tx = (*tx)(nil)

// statements prepares what every transaction runs. The tables are there.
func (d *database) statements(ctx context.Context) error {
	if d.setServer != nil {
		return nil
	}
	for _, s := range []struct {
		to   **sql.Stmt
		text string
	}{
		{&d.current, `SELECT CASE WHEN value IS NULL THEN 0 ELSE revision END FROM skiff_writes WHERE name = ? ORDER BY name DESC, revision DESC LIMIT 1`},
		{&d.insert, `INSERT INTO skiff_writes (revision, name, value, expiry) VALUES (?, ?, ?, ?)`},
		{&d.setHead, `UPDATE skiff_meta SET revision = ?, compacted = ? WHERE id = 1`},
		{&d.setServer, `INSERT INTO skiff_servers (server, revision, written) VALUES (?, ?, ?)
			ON CONFLICT (server) DO UPDATE SET revision = excluded.revision, written = excluded.written`},
	} {
		stmt, err := d.write.PrepareContext(ctx, s.text)
		if err != nil {
			return err
		}
		*s.to = stmt
	}
	return nil
}

func (d *database) Tx(ctx context.Context) (relational.Tx, error) {
	if err := d.statements(ctx); err != nil {
		return nil, err
	}
	begun, err := d.write.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	return &tx{begun, d}, nil
}

func (t *tx) Begin(ctx context.Context, keys []string) (h relational.Head, current map[string]int64, err error) {
	row := t.QueryRowContext(ctx, `SELECT layout, revision, compacted, dropped FROM skiff_meta WHERE id = 1`)
	if err := row.Scan(&h.Layout, &h.Revision, &h.Compacted, &h.Dropped); err != nil {
		return h, nil, err
	}
	current = make(map[string]int64, len(keys))
	statement := t.StmtContext(ctx, t.d.current)
	for _, key := range keys {
		var revision int64
		err := statement.QueryRowContext(ctx, []byte(key)).Scan(&revision)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return h, nil, err
		}
		current[key] = revision // backend.Absent if there is no row
	}
	return h, current, nil
}

func (t *tx) Own(ctx context.Context, server int64) (revision int64, err error) {
	err = t.QueryRowContext(ctx, `SELECT revision FROM skiff_servers WHERE server = ?`, server).Scan(&revision)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return revision, err
}

func (t *tx) Commit(ctx context.Context, head relational.Head, server int64, writes []relational.Write) error {
	insert := t.StmtContext(ctx, t.d.insert)
	for _, w := range writes {
		if _, err := insert.ExecContext(ctx, w.Revision, []byte(w.Key), w.Value, w.End()); err != nil {
			return err
		}
	}
	if _, err := t.StmtContext(ctx, t.d.setHead).ExecContext(ctx, head.Revision, head.Compacted); err != nil {
		return err
	}
	if _, err := t.StmtContext(ctx, t.d.setServer).ExecContext(ctx, server, head.Revision, time.Now().Unix()); err != nil {
		return err
	}
	return t.Tx.Commit()
}

func (t *tx) Rollback(context.Context) { _ = t.Tx.Rollback() } // there is nothing to wait for
