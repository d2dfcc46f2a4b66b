package mysql

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend/relational"
)

// The statements of a transaction. The row of the server is changed in any case: a
// transaction that changes nothing syncs nothing. Under READ COMMITTED each sees what was
// committed before it began, so what follows the lock sees all that has been
// committed under it before.
const (
	beginStatements = `SET TRANSACTION ISOLATION LEVEL READ COMMITTED; START TRANSACTION;
SELECT layout, revision, compacted, dropped FROM skiff_meta WHERE id = 1 FOR UPDATE;
SELECT w.name, w.revision FROM (
	SELECT name, MAX(revision) AS revision FROM skiff_writes WHERE name IN (%s) GROUP BY name
) l JOIN skiff_writes w ON w.revision = l.revision WHERE w.value IS NOT NULL`

	insertStatement  = `INSERT INTO skiff_writes (revision, name, value, expiry) VALUES `
	commitStatements = `UPDATE skiff_meta SET revision = ?, compacted = ? WHERE id = 1;
INSERT INTO skiff_servers (server, revision, written) VALUES (?, ?, ?) ON DUPLICATE KEY UPDATE
	written = IF(revision = ?, written + 1, ?), revision = ?;
COMMIT`
	ownStatement = `SELECT COALESCE(MAX(revision), 0) FROM skiff_servers WHERE server = ?`
)

// tx is a transaction on the connection for writing. All up to its decision is
// one message to the database, and all from there to the commit another.
type tx struct{ conn *sql.Conn }

var _ relational.Tx = (*tx)(nil)

func (d *database) Tx(ctx context.Context) (relational.Tx, error) {
	if err := d.measure(ctx); err != nil {
		return nil, err
	}
	conn, err := d.write.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return &tx{conn}, nil
}

func (t *tx) Begin(ctx context.Context, keys []string) (h relational.Head, current map[string]int64, err error) {
	names := make([]any, len(keys))
	for i, key := range keys {
		names[i] = []byte(key)
	}
	statements := fmt.Sprintf(beginStatements, strings.TrimSuffix(strings.Repeat("?,", len(keys)), ","))
	rows, err := t.conn.QueryContext(ctx, statements, names...)
	if err != nil {
		return h, nil, err
	}
	defer rows.Close()
	for rows.Next() {
		if err := rows.Scan(&h.Layout, &h.Revision, &h.Compacted, &h.Dropped); err != nil {
			return h, nil, err
		}
	}
	if !rows.NextResultSet() {
		return h, nil, errors.Join(errCut, rows.Err())
	}
	current = make(map[string]int64, len(keys))
	for rows.Next() {
		var name []byte
		var revision int64
		if err := rows.Scan(&name, &revision); err != nil {
			return h, nil, err
		}
		current[string(name)] = revision
	}
	return h, current, rows.Err()
}

// errCut: there is no second result.
var errCut = errors.New("the database answered one of two questions")

func (t *tx) Own(ctx context.Context, server int64) (revision int64, err error) {
	err = t.conn.QueryRowContext(ctx, ownStatement, server).Scan(&revision)
	return revision, err
}

func (t *tx) Commit(ctx context.Context, head relational.Head, server int64, writes []relational.Write) error {
	var statements strings.Builder
	var args []any
	if len(writes) > 0 {
		statements.WriteString(insertStatement)
		statements.WriteString(strings.TrimSuffix(strings.Repeat("(?,?,?,?),", len(writes)), ","))
		statements.WriteString(";\n")
		for _, w := range writes {
			args = append(args, w.Revision, []byte(w.Key), w.Value, w.End())
		}
	}
	statements.WriteString(commitStatements)
	now := time.Now().Unix()
	args = append(args, head.Revision, head.Compacted, server, head.Revision, now, head.Revision, now, head.Revision)
	if _, err := t.conn.ExecContext(ctx, statements.String(), args...); err != nil {
		return err
	}
	_ = t.conn.Close() // it is the pool's again
	return nil
}

func (t *tx) Rollback(ctx context.Context) {
	if _, err := t.conn.ExecContext(ctx, "ROLLBACK"); err != nil {
		_ = t.conn.Raw(func(any) error { return driver.ErrBadConn }) // the pool closes such a one
	}
	_ = t.conn.Close() // it is the pool's again, or closed
}
