package relational

import (
	"context"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend"
)

// rollbackWait is how long a database may take to end a transaction before the
// connection is closed.
const rollbackWait = 5 * time.Second

// transaction is a Tx that has begun.
type transaction struct {
	tx        Tx
	head      Head
	revisions map[string]int64 // of the keys that have a value
	committed bool
}

// begin begins a transaction, which must be ended.
func (b *Backend) begin(ctx context.Context, keys []string) (*transaction, error) {
	tx, err := b.db.Tx(ctx)
	if err != nil {
		return nil, err
	}
	t := &transaction{tx: tx}
	if t.head, t.revisions, err = tx.Begin(ctx, keys); err != nil {
		t.end()
		return nil, err
	}
	return t, nil
}

// current is the revision of a key's value.
func (t *transaction) current(key string) int64 {
	if revision, ok := t.revisions[key]; ok {
		return revision
	}
	return backend.Absent
}

func (t *transaction) commit(ctx context.Context, head Head, server int64, writes []Write) error {
	err := t.tx.Commit(ctx, head, server, writes)
	t.committed = err == nil
	return err
}

// end rolls the transaction back unless it was committed. It does so too when
// whoever wanted it has left.
func (t *transaction) end() {
	if t.committed {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), rollbackWait)
	defer cancel()
	t.tx.Rollback(ctx)
}
