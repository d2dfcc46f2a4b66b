package runtime

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/guard"
)

// Relisting finds what events missed. Without an event stream it is the only source.
const (
	relistWithEvents    = 10 * time.Second
	relistWithoutEvents = time.Second
)

// Watch calls changed for each pod of which a sandbox or container changed, until ctx ends. It uses the
// runtime's events and, more rarely, compares listings. healthy is told of each listing's outcome: a
// runtime that cannot list is a runtime that is down.
func (c *Client) Watch(ctx context.Context, changed func(types.UID), healthy func(error)) error {
	events := make(chan bool, 1) // whether the stream of events is up
	done := make(chan struct{})
	guard.Go("runtime events", func() {
		defer close(done)
		_ = guard.Keep(ctx, "runtime events", func(ctx context.Context) error { c.followEvents(ctx, changed, events); return nil })
	})
	defer func() { <-done }()

	known := map[string]known{}
	every := relistWithoutEvents
	for {
		fresh, err := c.list(ctx)
		healthy(err)
		if err == nil {
			for uid := range difference(known, fresh) {
				changed(uid)
			}
			known = fresh
		} else if ctx.Err() == nil {
			slog.Warn("container runtime does not answer", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case up := <-events:
			every = relistWithoutEvents
			if up {
				every = relistWithEvents
			}
		case <-time.After(every):
		}
	}
}

// known is a sandbox's or container's state by id.
type known struct {
	uid   types.UID
	state int32
}

func (c *Client) list(ctx context.Context) (map[string]known, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	sandboxes, err := c.cri.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	containers, err := c.cri.ListContainers(ctx, &cri.ListContainersRequest{})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	all := make(map[string]known, len(sandboxes.Items)+len(containers.Containers))
	for _, s := range sandboxes.Items {
		all[s.Id] = known{types.UID(s.Labels[LabelPodUID]), int32(s.State)}
	}
	for _, s := range containers.Containers {
		all[s.Id] = known{types.UID(s.Labels[LabelPodUID]), int32(s.State)}
	}
	return all, nil
}

// difference is the set of pods of which anything came, went or changed.
func difference(before, after map[string]known) map[types.UID]struct{} {
	uids := map[types.UID]struct{}{}
	for id, k := range after {
		if before[id] != k {
			uids[k.uid] = struct{}{}
		}
	}
	for id, k := range before {
		if _, found := after[id]; !found {
			uids[k.uid] = struct{}{}
		}
	}
	return uids
}

// followEvents keeps a stream of container events open and says on up when it comes and goes. It ends
// with ctx, or when the runtime has no events.
func (c *Client) followEvents(ctx context.Context, changed func(types.UID), up chan<- bool) {
	say := func(isUp bool) {
		select {
		case up <- isUp:
		case <-ctx.Done():
		}
	}
	for ctx.Err() == nil {
		err := c.streamEvents(ctx, changed, func() { say(true) })
		if ctx.Err() != nil || status.Code(err) == codes.Unimplemented {
			return
		}
		slog.Debug("container events ended", "error", err)
		say(false)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

func (c *Client) streamEvents(ctx context.Context, changed func(types.UID), flowing func()) error {
	stream, err := c.cri.GetContainerEvents(ctx, &cri.GetEventsRequest{})
	if err != nil {
		return err
	}
	for first := true; ; first = false {
		e, err := stream.Recv()
		if err != nil {
			return err
		}
		if first {
			flowing() // only a stream that delivered is known to work
		}
		if uid := e.GetPodSandboxStatus().GetMetadata().GetUid(); uid != "" {
			changed(types.UID(uid))
		}
	}
}

// Brief is a pod as a listing shows it.
type Brief struct {
	UID             types.UID
	Namespace, Name string
	Alive           bool // a sandbox is ready or a container runs
}

// Pods lists all pods the runtime has anything of.
func (c *Client) Pods(ctx context.Context) (map[types.UID]Brief, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	sandboxes, err := c.cri.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	containers, err := c.cri.ListContainers(ctx, &cri.ListContainersRequest{})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	pods := map[types.UID]Brief{}
	add := func(labels map[string]string, alive bool) {
		uid := types.UID(labels[LabelPodUID])
		if uid == "" {
			return // not made by a kubelet
		}
		b := pods[uid]
		b.UID, b.Namespace, b.Name = uid, labels[LabelPodNamespace], labels[LabelPodName]
		b.Alive = b.Alive || alive
		pods[uid] = b
	}
	for _, s := range sandboxes.Items {
		add(s.Labels, s.State == cri.PodSandboxState_SANDBOX_READY)
	}
	for _, s := range containers.Containers {
		add(s.Labels, s.State == cri.ContainerState_CONTAINER_RUNNING)
	}
	return pods, nil
}
