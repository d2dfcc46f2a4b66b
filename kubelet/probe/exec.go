package probe

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/kubelet/env"
)

// maxOutput bounds what of a probe's output gets into messages.
const maxOutput = 10 << 10

// tryExec runs a command in the container, which succeeds with exit code 0. Only variables with plain
// values are expanded in it, as a probe has nothing else.
func (m *Manager) tryExec(ctx context.Context, t *target, action *v1.ExecAction, timeout time.Duration) (outcome, string) {
	plain := map[string]string{}
	for _, e := range t.container.Env {
		plain[e.Name] = e.Value
	}
	command := env.ExpandAll(action.Command, env.Lookup(plain))
	output, code, err := m.cfg.Exec(ctx, t.id, command, timeout)
	switch {
	case errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded:
		return failure, fmt.Sprintf("command timed out: %q timed out after %v", strings.Join(command, " "), timeout)
	case err != nil:
		return unknown, err.Error()
	case code != 0:
		return failure, string(output[:min(len(output), maxOutput)])
	}
	return success, ""
}
