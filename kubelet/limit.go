package kubelet

import (
	"context"
	"log/slog"
	"time"
)

// limitPods bounds what all pods together use by what is allocatable, once that is known.
func (k *Kubelet) limitPods(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if allocatable := k.node.Node().Status.Allocatable; len(allocatable) > 0 {
			// Pods taken over from an earlier run may use more at the moment.
			if err := k.cgroups.Limit(allocatable); err != nil {
				slog.Warn("pods may use more than is allocatable", "error", err)
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
