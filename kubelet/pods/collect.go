package pods

import (
	"context"
	"log/slog"

	"github.com/skiff-k8s/skiff/kubelet/logs"
	"github.com/skiff-k8s/skiff/kubelet/runtime"
)

// keepRuns is how many runs of a container stay with the runtime: the newest, and the one before it for
// its state and its log.
const keepRuns = 2

// collect removes runs that are older than anybody asks for, with their logs, and sandboxes that are
// empty for it. What cannot be removed now is tried again at the next look.
func collect(ctx context.Context, p *pass) (outcome, error) {
	seen := map[string]int{}
	used := map[string]bool{}
	for _, c := range p.rt.Containers {
		seen[c.Name]++
		if seen[c.Name] <= keepRuns || c.State != runtime.Exited {
			used[c.SandboxID] = true
			continue
		}
		if err := p.m.cfg.Runtime.RemoveContainer(ctx, c.ID); err != nil {
			slog.Warn("old container not removed", "container", c.ID, "error", err)
			continue
		}
		if c.LogPath == "" {
			continue
		}
		if err := logs.Remove(c.LogPath); err != nil {
			slog.Warn("old log not removed", "log", c.LogPath, "error", err)
		}
	}
	for i, s := range p.rt.Sandboxes {
		if i == 0 || s.Ready || used[s.ID] {
			continue
		}
		if err := p.m.cfg.Runtime.RemoveSandbox(ctx, s.ID); err != nil {
			slog.Warn("old sandbox not removed", "sandbox", s.ID, "error", err)
		}
	}
	return proceed, nil
}
