package probe

import (
	"cmp"
	"context"
	"net"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/kubelet/hooks"
)

// tryTCP opens a connection, and that is all it takes.
func tryTCP(ctx context.Context, t *target, action *v1.TCPSocketAction, timeout time.Duration) (outcome, string) {
	port, err := hooks.Port(action.Port, t.container)
	if err != nil {
		return unknown, err.Error()
	}
	within := *dialer
	within.Timeout = timeout
	conn, err := within.DialContext(ctx, "tcp", net.JoinHostPort(cmp.Or(action.Host, t.podIP), strconv.Itoa(port)))
	if err != nil {
		return failure, err.Error()
	}
	conn.Close()
	return success, ""
}
