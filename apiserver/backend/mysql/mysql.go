// Package mysql is the engine behind mysql://: a MySQL or MariaDB database,
// which any number of servers may share.
//
// An acknowledged write survives kill -9 and power loss if the database has
// innodb_flush_log_at_trx_commit=1, as by default; a server that finds another
// value says so. The database has no notifications: servers ask every 20 ms
// whether others have written, and with every read and write of their own.
package mysql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/relational"
)

const (
	// readers is how many connections a server reads with; it has one more, for
	// writes.
	readers = 8
	// maxBatch is how many bytes a transaction has, if the database takes them.
	maxBatch = 8 << 20
	// oneWrite is room for any single write.
	oneWrite = backend.MaxValue + relational.MaxKey
	// framing is what a message has besides keys and values.
	framing = 64 << 10
	// poll is how often to look for the writes of others.
	poll = 20 * time.Millisecond
	// idle is how long a connection for writing is kept without use. The database
	// ends it a little later, and with it a transaction whose server is gone.
	idle = 10 * time.Second
)

// Open opens the database that a URL names and makes the tables if they are not
// there. It must be closed.
//
//	mysql://user:password@host:3306/database
//
// Parameters: tls (true, preferred, skip-verify or false, the default), ca, cert
// and key (files; ca or cert mean tls=true), socket (a path, instead of a host).
func Open(address string) (*relational.Backend, error) {
	config, err := parse(address)
	if err != nil {
		return nil, fmt.Errorf("open storage: %w", err)
	}
	writing := config.Clone()
	writing.MultiStatements = true
	writing.MaxAllowedPacket = 0 // ask the database
	writing.Params = map[string]string{
		"wait_timeout": "15", "net_read_timeout": "15", "innodb_lock_wait_timeout": "20",
	}
	d := &database{}
	if d.read, err = connector(config); err != nil {
		return nil, err
	}
	if d.write, err = connector(writing); err != nil {
		return nil, errors.Join(err, d.read.Close())
	}
	d.read.SetMaxOpenConns(readers)
	d.read.SetMaxIdleConns(readers)
	d.write.SetMaxOpenConns(1)
	d.write.SetConnMaxIdleTime(idle)
	return relational.Open(context.Background(), d)
}

func connector(config *mysql.Config) (*sql.DB, error) {
	c, err := mysql.NewConnector(config)
	if err != nil {
		return nil, fmt.Errorf("open storage: %w", err)
	}
	return sql.OpenDB(c), nil
}

type database struct {
	read  *sql.DB
	write *sql.DB      // one connection, which takes several statements at once
	batch atomic.Int64 // how many bytes a transaction can have; 0: not known yet
}

var _ relational.Early = (*database)(nil)

func (d *database) Name() string                                     { return "MySQL" }
func (d *database) Shared() bool                                     { return true }
func (d *database) Poll(bool) time.Duration                          { return poll }
func (d *database) Listen(context.Context, int64, func(int64)) error { return nil }
func (d *database) Shrink(context.Context) error                     { return nil } // InnoDB uses space again
func (d *database) Among(column string, numbers []int64) (string, []any) {
	return relational.In(column, numbers), nil
}
func (d *database) Close() error { return errors.Join(d.read.Close(), d.write.Close()) }

func (d *database) MaxBatch() int {
	if known := d.batch.Load(); known > 0 {
		return int(known)
	}
	return oneWrite
}

// measure finds out how large a message can be. Escaped, a value can have twice
// its size.
func (d *database) measure(ctx context.Context) error {
	if d.batch.Load() > 0 {
		return nil
	}
	var packet, flush int64
	row := d.read.QueryRowContext(ctx, `SELECT @@max_allowed_packet, @@innodb_flush_log_at_trx_commit`)
	if err := row.Scan(&packet, &flush); err != nil {
		return err
	}
	fits := min(maxBatch, (packet-framing)/2)
	if fits < oneWrite {
		return fmt.Errorf("max_allowed_packet of the database is %d: it must be at least 4M", packet)
	}
	if flush != 1 {
		slog.Warn("The database loses acknowledged writes when it crashes", "innodb_flush_log_at_trx_commit", flush, "want", 1)
	}
	d.batch.Store(fits)
	return nil
}

func (d *database) Schema() []string {
	const options = ` ENGINE=InnoDB ROW_FORMAT=DYNAMIC`
	return []string{
		`CREATE TABLE IF NOT EXISTS skiff_writes (revision BIGINT PRIMARY KEY, name VARBINARY(1024) NOT NULL, value LONGBLOB, expiry BIGINT,
			KEY skiff_writes_name (name, revision), KEY skiff_writes_expiry (expiry))` + options,
		`CREATE TABLE IF NOT EXISTS skiff_servers (server BIGINT PRIMARY KEY, revision BIGINT NOT NULL, written BIGINT NOT NULL)` + options,
		`CREATE TABLE IF NOT EXISTS skiff_meta (id BIGINT PRIMARY KEY, layout BIGINT NOT NULL, revision BIGINT NOT NULL,
			compacted BIGINT NOT NULL, dropped BIGINT NOT NULL)` + options,
	}
}

func (d *database) Query(ctx context.Context, statement string, args ...any) (*sql.Rows, error) {
	return d.read.QueryContext(ctx, statement, args...)
}

// Reader is a connection of its own: one of the pool could be another by the
// time that Keep is called, to a database that has died meanwhile.
func (d *database) Reader(ctx context.Context) (relational.Reader, error) {
	conn, err := d.read.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return reader{conn}, nil
}

// reader is a connection on which what was read can be kept. InnoDB shows a
// commit to others before its log is synced.
type reader struct{ *sql.Conn }

func (r reader) Query(ctx context.Context, statement string, args ...any) (*sql.Rows, error) {
	return r.QueryContext(ctx, statement, args...)
}

// Keep commits something: what syncs the log for that syncs all before it. The
// row belongs to no server, and to all.
func (r reader) Keep(ctx context.Context) error {
	_, err := r.ExecContext(ctx, keepStatement, time.Now().Unix())
	return err
}

const keepStatement = `INSERT INTO skiff_servers (server, revision, written) VALUES (-1, 0, ?) ON DUPLICATE KEY UPDATE revision = revision + 1, written = VALUES(written)`

func (d *database) Exec(ctx context.Context, statement string, args ...any) error {
	_, err := d.read.ExecContext(ctx, statement, args...)
	return err
}

// Class of errors, by number.
func (d *database) Class(err error) relational.Class {
	var e *mysql.MySQLError
	if !errors.As(err, &e) {
		if relational.Unreachable(err) || errors.Is(err, mysql.ErrInvalidConn) || errors.Is(err, mysql.ErrMalformPkt) {
			return relational.Lost
		}
		return relational.Refused
	}
	switch e.Number {
	case 1205, 1213, 1020, // lock wait timeout, deadlock, record has changed
		1317, 1969, 3024: // interrupted, somebody's limit of time (MariaDB, MySQL)
		return relational.Busy
	case 1040, 1203, 1226, // too many connections
		1053, 1927, 3169, // shutting down, connection killed (MariaDB, MySQL)
		1290, 1792, 1836, 3100, 3101: // read-only, as a replica is; replication undid the commit
		return relational.Lost
	}
	if strings.HasPrefix(string(e.SQLState[:]), "08") { // connection exceptions
		return relational.Lost
	}
	return relational.Refused
}
