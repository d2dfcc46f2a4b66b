package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
)

// echoWait is how long the notification may take that shows that there are
// notifications.
const echoWait = 5 * time.Second

// Listen waits for the notifications of other servers' transactions. Before it
// trusts in them, it sends one to itself, by another connection.
func (d *database) Listen(ctx context.Context, server int64, woken func(revision int64)) error {
	if !d.notify {
		return nil
	}
	conn, err := pgx.ConnectConfig(ctx, d.config)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, "LISTEN skiff"); absent(err) {
		return nil
	} else if err != nil {
		return err
	}
	if err := d.Exec(ctx, numbered("SELECT pg_notify('skiff', ?)"), fmt.Sprintf("%d 0", server)); err != nil {
		return err
	}
	echo, cancel := context.WithTimeout(ctx, echoWait)
	defer cancel()
	if _, err := conn.WaitForNotification(echo); err != nil {
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			slog.Info("Notifications of the storage do not arrive; it is polled")
			return nil
		}
		return err
	}
	woken(0)
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		var from, revision int64
		if _, err := fmt.Sscan(n.Payload, &from, &revision); err == nil && from != server {
			woken(revision)
		}
	}
}
