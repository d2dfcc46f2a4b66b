// Package postgres is the engine behind postgres://: a PostgreSQL database,
// which any number of servers may share.
//
// An acknowledged write survives whatever the database's commits survive; where
// sessions begin with synchronous_commit off, it is turned on. Servers hear of
// each other's writes by LISTEN and NOTIFY. Where notifications do not arrive
// (databases that only speak PostgreSQL's language, poolers that share
// connections), that is noticed and the database is polled, as with notify=off in
// the URL.
package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/skiff-k8s/skiff/apiserver/backend/relational"
)

const (
	// readers is how many connections a server reads with; it has two more, for
	// writes and notifications.
	readers = 8
	// maxBatch is how many bytes a transaction has.
	maxBatch = 8 << 20
	// pollNotified is how often to look whether a notification was missed, and
	// poll how often to look where there are none.
	pollNotified = time.Second
	poll         = 20 * time.Millisecond
)

// ErrURL: the URL is malformed. What is wrong is not said, as it may be a
// password that is not escaped.
var ErrURL = errors.New("malformed URL, want postgres://user:password@host:port/database with special characters of the parts as %XX")

// Open opens the database that a URL names, as libpq would, and makes the
// tables if they are not there. It must be closed. The parameter notify=off
// makes it poll for the writes of other servers.
func Open(address string) (*relational.Backend, error) {
	config, notify, err := parse(address)
	if err != nil {
		return nil, fmt.Errorf("open storage: %w", err)
	}
	d := &database{config: config, notify: notify, read: stdlib.OpenDB(*config)}
	d.read.SetMaxOpenConns(readers)
	d.read.SetMaxIdleConns(readers)
	return relational.Open(context.Background(), d)
}

func parse(address string) (config *pgx.ConnConfig, notify bool, err error) {
	base, query, _ := strings.Cut(address, "?")
	// An @ after the host is one of a password with a slash in it.
	_, path, _ := strings.Cut(strings.TrimPrefix(base, "postgres://"), "/")
	values, err := url.ParseQuery(query)
	if err != nil || strings.Contains(path, "@") {
		return nil, false, ErrURL
	}
	switch value := values.Get("notify"); value {
	case "", "on", "off":
		notify = value != "off"
	default:
		return nil, false, errors.New("storage URL: notify can be on or off")
	}
	values.Del("notify")
	if config, err = pgx.ParseConfig(base + "?" + values.Encode()); err != nil {
		return nil, false, ErrURL
	}
	config.DialFunc = relational.Dial
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "skiff"
	}
	return config, notify, nil
}

const connectTimeout = 5 * time.Second

// database is pgx through database/sql for reading, and one connection for
// writing, on which statements are sent together.
type database struct {
	config *pgx.ConnConfig
	notify bool
	read   *sql.DB
	writer *pgx.Conn // the writer's own; nil: to be connected
}

var _ relational.Database = (*database)(nil)

func (d *database) Name() string  { return "PostgreSQL" }
func (d *database) Shared() bool  { return true }
func (d *database) MaxBatch() int { return maxBatch }

func (d *database) Poll(notified bool) time.Duration {
	if notified {
		return pollNotified
	}
	return poll
}

func (d *database) Schema() []string {
	return []string{
		`CREATE TABLE IF NOT EXISTS skiff_writes (revision BIGINT PRIMARY KEY, name BYTEA NOT NULL, value BYTEA, expiry BIGINT)`,
		`CREATE INDEX IF NOT EXISTS skiff_writes_name ON skiff_writes (name, revision)`,
		`CREATE INDEX IF NOT EXISTS skiff_writes_expiry ON skiff_writes (expiry) WHERE expiry IS NOT NULL`,
		`CREATE TABLE IF NOT EXISTS skiff_servers (server BIGINT PRIMARY KEY, revision BIGINT NOT NULL, written BIGINT NOT NULL)`,
		`CREATE TABLE IF NOT EXISTS skiff_meta (id BIGINT PRIMARY KEY, layout BIGINT NOT NULL, revision BIGINT NOT NULL,
			compacted BIGINT NOT NULL, dropped BIGINT NOT NULL)`,
	}
}

func (d *database) Query(ctx context.Context, statement string, args ...any) (*sql.Rows, error) {
	return d.read.QueryContext(ctx, numbered(statement), args...)
}

func (d *database) Exec(ctx context.Context, statement string, args ...any) error {
	_, err := d.read.ExecContext(ctx, numbered(statement), args...)
	return err
}

// numbered is a statement with $1, $2 … for its arguments.
func numbered(statement string) string {
	var b strings.Builder
	for n := 1; ; n++ {
		before, after, found := strings.Cut(statement, "?")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		b.WriteString("$" + strconv.Itoa(n))
		statement = after
	}
}

func (d *database) Among(column string, numbers []int64) (string, []any) {
	return column + " = ANY (?)", []any{numbers}
}

// Shrink makes room that others can use at once: by itself the database does
// so a minute or more later.
func (d *database) Shrink(ctx context.Context) error {
	_, err := d.read.ExecContext(ctx, `VACUUM (ANALYZE) skiff_writes, skiff_meta, skiff_servers`)
	if absent(err) {
		return nil // databases that have no such statement do it in their own way
	}
	return err
}

// absent reports whether the database does not have what a statement is about.
func absent(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && (e.Code == "42601" || e.Code == "0A000")
}

func (d *database) Close() error {
	err := d.read.Close()
	d.disconnect()
	return err
}

// Class of errors, by SQLSTATE.
func (d *database) Class(err error) relational.Class {
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		if relational.Unreachable(err) || pgconn.SafeToRetry(err) || pgconn.Timeout(err) {
			return relational.Lost
		}
		return relational.Refused
	}
	switch e.Code {
	case "40001", "40P01", // serialization failure, deadlock
		"55P03", "57014": // somebody's lock_timeout or statement_timeout
		return relational.Busy
	case "57P01", "57P02", "57P03", "57P05", // shutting down, crashed, starting, session ended
		"25006", "25P03", // a standby, transaction ended
		"40003", "53300": // outcome unknown, too many connections
		return relational.Lost
	}
	if strings.HasPrefix(e.Code, "08") { // connection exceptions
		return relational.Lost
	}
	return relational.Refused
}
