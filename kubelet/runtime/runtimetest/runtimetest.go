// Package runtimetest is a container runtime in memory that speaks CRI v1 over a socket, for tests of
// what drives a runtime. Its containers do nothing but run until their script or a stop ends them.
package runtimetest

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Script is how a container behaves.
type Script struct {
	Runs     time.Duration // 0: until it is stopped
	Exits    int32         // with this code
	Stubborn bool          // takes the whole grace to stop, and is then killed
	Fails    string        // creating it fails with this message
}

// Runtime is a runtime with its state. Its methods are safe for concurrent use.
type Runtime struct {
	cri.UnimplementedRuntimeServiceServer
	cri.UnimplementedImageServiceServer

	// Endpoint is the socket.
	Endpoint string
	// Script says how a container behaves; nil is the zero Script for all.
	Script func(config *cri.ContainerConfig) Script
	// Missing are images that cannot be pulled; all others are there.
	Missing map[string]bool

	mu         sync.Mutex
	next       int
	sandboxes  map[string]*cri.PodSandboxStatus
	containers map[string]*container
	log        []string
	watchers   map[chan *cri.ContainerEventResponse]bool
}

type container struct {
	status  *cri.ContainerStatus
	sandbox string
	script  Script
	end     chan struct{} // closed when it has exited
}

// Start serves a new runtime until the test ends.
func Start(t *testing.T) *Runtime {
	r := &Runtime{
		Endpoint:   filepath.Join(t.TempDir(), "cri.sock"),
		sandboxes:  map[string]*cri.PodSandboxStatus{},
		containers: map[string]*container{},
		watchers:   map[chan *cri.ContainerEventResponse]bool{},
	}
	l, err := net.Listen("unix", r.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	cri.RegisterRuntimeServiceServer(s, r)
	cri.RegisterImageServiceServer(s, r)
	served := make(chan struct{})
	go func() { defer close(served); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-served })
	return r
}

// Log is what was asked of the runtime so far that changed something, "start c", "stop c 30".
func (r *Runtime) Log() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.log)
}

// Running are the names of the containers that run, sorted.
func (r *Runtime) Running() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var names []string
	for _, c := range r.containers {
		if c.status.State == cri.ContainerState_CONTAINER_RUNNING {
			names = append(names, c.status.Metadata.Name)
		}
	}
	slices.Sort(names)
	return names
}

// Left is how many sandboxes and containers there are, dead ones included.
func (r *Runtime) Left() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.sandboxes) + len(r.containers)
}

// KillSandboxes makes all sandboxes and their containers die, as a reboot does.
func (r *Runtime) KillSandboxes() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.containers {
		r.exit(c, 137)
	}
	for _, s := range r.sandboxes {
		s.State = cri.PodSandboxState_SANDBOX_NOTREADY
		r.tell(s)
	}
}

func (r *Runtime) note(format string, args ...any) {
	r.log = append(r.log, fmt.Sprintf(format, args...))
}

func (r *Runtime) id(prefix string) string {
	r.next++
	return fmt.Sprintf("%s%d", prefix, r.next)
}

// tell sends an event about a sandbox; r.mu is held.
func (r *Runtime) tell(s *cri.PodSandboxStatus) {
	event := &cri.ContainerEventResponse{PodSandboxStatus: &cri.PodSandboxStatus{Id: s.Id, Metadata: s.Metadata, State: s.State}}
	for w := range r.watchers {
		select {
		case w <- event:
		default: // relisting finds it
		}
	}
}

// exit ends a container that runs; r.mu is held.
func (r *Runtime) exit(c *container, code int32) {
	if c.status.State != cri.ContainerState_CONTAINER_RUNNING {
		return
	}
	c.status.State, c.status.ExitCode, c.status.FinishedAt = cri.ContainerState_CONTAINER_EXITED, code, time.Now().UnixNano()
	c.status.Reason = "Completed"
	if code != 0 {
		c.status.Reason = "Error"
	}
	close(c.end)
	r.tell(r.sandboxes[c.sandbox])
}

func (r *Runtime) Version(context.Context, *cri.VersionRequest) (*cri.VersionResponse, error) {
	return &cri.VersionResponse{Version: "v1", RuntimeName: "test", RuntimeVersion: "1", RuntimeApiVersion: "v1"}, nil
}

func (r *Runtime) Status(context.Context, *cri.StatusRequest) (*cri.StatusResponse, error) {
	return &cri.StatusResponse{Status: &cri.RuntimeStatus{Conditions: []*cri.RuntimeCondition{
		{Type: "RuntimeReady", Status: true}, {Type: "NetworkReady", Status: true},
	}}}, nil
}

func (r *Runtime) RunPodSandbox(_ context.Context, q *cri.RunPodSandboxRequest) (*cri.RunPodSandboxResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sandboxes {
		if s.Metadata.Uid == q.Config.Metadata.Uid && s.Metadata.Attempt == q.Config.Metadata.Attempt {
			return nil, status.Errorf(codes.Unknown, "sandbox name of %s is reserved", s.Metadata.Name)
		}
	}
	s := &cri.PodSandboxStatus{
		Id: r.id("sandbox"), Metadata: q.Config.Metadata, CreatedAt: time.Now().UnixNano(),
		Labels: q.Config.Labels, Annotations: q.Config.Annotations,
		Network: &cri.PodSandboxNetworkStatus{Ip: fmt.Sprintf("10.0.0.%d", r.next)},
		Linux:   &cri.LinuxPodSandboxStatus{Namespaces: &cri.Namespace{Options: q.Config.Linux.SecurityContext.NamespaceOptions}},
	}
	r.sandboxes[s.Id] = s
	r.note("sandbox %s", s.Metadata.Name)
	return &cri.RunPodSandboxResponse{PodSandboxId: s.Id}, nil
}

func (r *Runtime) StopPodSandbox(_ context.Context, q *cri.StopPodSandboxRequest) (*cri.StopPodSandboxResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sandboxes[q.PodSandboxId]
	if s == nil {
		return &cri.StopPodSandboxResponse{}, nil
	}
	for _, c := range r.containers {
		if c.sandbox == s.Id {
			r.exit(c, 137)
		}
	}
	s.State = cri.PodSandboxState_SANDBOX_NOTREADY
	r.tell(s)
	return &cri.StopPodSandboxResponse{}, nil
}

func (r *Runtime) RemovePodSandbox(_ context.Context, q *cri.RemovePodSandboxRequest) (*cri.RemovePodSandboxResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sandboxes, q.PodSandboxId)
	return &cri.RemovePodSandboxResponse{}, nil
}

func (r *Runtime) ListPodSandbox(_ context.Context, q *cri.ListPodSandboxRequest) (*cri.ListPodSandboxResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []*cri.PodSandbox
	for _, s := range r.sandboxes {
		if matches(s.Labels, q.Filter.GetLabelSelector()) {
			list = append(list, &cri.PodSandbox{Id: s.Id, Metadata: s.Metadata, State: s.State, CreatedAt: s.CreatedAt, Labels: s.Labels})
		}
	}
	return &cri.ListPodSandboxResponse{Items: list}, nil
}

func matches(labels, selector map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}

func (r *Runtime) PodSandboxStatus(_ context.Context, q *cri.PodSandboxStatusRequest) (*cri.PodSandboxStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sandboxes[q.PodSandboxId]
	if s == nil {
		return nil, status.Errorf(codes.NotFound, "no sandbox %s", q.PodSandboxId)
	}
	return &cri.PodSandboxStatusResponse{Status: &cri.PodSandboxStatus{
		Id: s.Id, Metadata: s.Metadata, State: s.State, CreatedAt: s.CreatedAt, Network: s.Network, Linux: s.Linux, Labels: s.Labels,
	}}, nil
}

func (r *Runtime) CreateContainer(_ context.Context, q *cri.CreateContainerRequest) (*cri.CreateContainerResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.containers {
		if c.sandbox == q.PodSandboxId && c.status.Metadata.Name == q.Config.Metadata.Name && c.status.Metadata.Attempt == q.Config.Metadata.Attempt {
			return nil, status.Errorf(codes.Unknown, "container name of %s is reserved", c.status.Metadata.Name)
		}
	}
	var script Script
	if r.Script != nil {
		script = r.Script(q.Config)
	}
	if script.Fails != "" {
		return nil, status.Error(codes.Unknown, script.Fails)
	}
	s := &cri.ContainerStatus{
		Id: r.id("container"), Metadata: q.Config.Metadata, State: cri.ContainerState_CONTAINER_CREATED, CreatedAt: time.Now().UnixNano(),
		Image: &cri.ImageSpec{Image: q.Config.Image.UserSpecifiedImage}, ImageRef: q.Config.Image.Image,
		Labels: q.Config.Labels, Annotations: q.Config.Annotations, Mounts: q.Config.Mounts,
		LogPath: filepath.Join(q.SandboxConfig.LogDirectory, q.Config.LogPath),
	}
	r.containers[s.Id] = &container{status: s, sandbox: q.PodSandboxId, script: script, end: make(chan struct{})}
	return &cri.CreateContainerResponse{ContainerId: s.Id}, nil
}

func (r *Runtime) StartContainer(_ context.Context, q *cri.StartContainerRequest) (*cri.StartContainerResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[q.ContainerId]
	if c == nil {
		return nil, status.Errorf(codes.NotFound, "no container %s", q.ContainerId)
	}
	c.status.State, c.status.StartedAt = cri.ContainerState_CONTAINER_RUNNING, time.Now().UnixNano()
	r.note("start %s", c.status.Metadata.Name)
	r.tell(r.sandboxes[c.sandbox])
	if c.script.Runs > 0 {
		time.AfterFunc(c.script.Runs, func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.exit(c, c.script.Exits)
		})
	}
	return &cri.StartContainerResponse{}, nil
}

func (r *Runtime) StopContainer(ctx context.Context, q *cri.StopContainerRequest) (*cri.StopContainerResponse, error) {
	r.mu.Lock()
	c := r.containers[q.ContainerId]
	if c == nil {
		r.mu.Unlock()
		return &cri.StopContainerResponse{}, nil
	}
	r.note("stop %s %d", c.status.Metadata.Name, q.Timeout)
	if !c.script.Stubborn {
		r.exit(c, c.script.Exits)
	}
	r.mu.Unlock()
	select {
	case <-c.end:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(time.Duration(q.Timeout) * time.Second):
		r.mu.Lock()
		r.exit(c, 137)
		r.mu.Unlock()
	}
	return &cri.StopContainerResponse{}, nil
}

func (r *Runtime) RemoveContainer(_ context.Context, q *cri.RemoveContainerRequest) (*cri.RemoveContainerResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.containers, q.ContainerId)
	return &cri.RemoveContainerResponse{}, nil
}

func (r *Runtime) ListContainers(_ context.Context, q *cri.ListContainersRequest) (*cri.ListContainersResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []*cri.Container
	for _, c := range r.containers {
		if matches(c.status.Labels, q.Filter.GetLabelSelector()) {
			s := c.status
			list = append(list, &cri.Container{Id: s.Id, PodSandboxId: c.sandbox, Metadata: s.Metadata, Image: s.Image, State: s.State, CreatedAt: s.CreatedAt, Labels: s.Labels})
		}
	}
	slices.SortFunc(list, func(a, b *cri.Container) int { return cmp.Compare(a.CreatedAt, b.CreatedAt) })
	return &cri.ListContainersResponse{Containers: list}, nil
}

func (r *Runtime) ContainerStatus(_ context.Context, q *cri.ContainerStatusRequest) (*cri.ContainerStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[q.ContainerId]
	if c == nil {
		return nil, status.Errorf(codes.NotFound, "no container %s", q.ContainerId)
	}
	s := c.status
	return &cri.ContainerStatusResponse{Status: &cri.ContainerStatus{
		Id: s.Id, Metadata: s.Metadata, State: s.State, CreatedAt: s.CreatedAt, StartedAt: s.StartedAt, FinishedAt: s.FinishedAt,
		ExitCode: s.ExitCode, Reason: s.Reason, Message: s.Message, Image: s.Image, ImageRef: s.ImageRef,
		Labels: s.Labels, Annotations: s.Annotations, Mounts: s.Mounts, LogPath: s.LogPath,
	}}, nil
}

func (r *Runtime) ExecSync(_ context.Context, q *cri.ExecSyncRequest) (*cri.ExecSyncResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note("exec %s %v", r.containers[q.ContainerId].status.Metadata.Name, q.Cmd)
	return &cri.ExecSyncResponse{}, nil
}

func (r *Runtime) UpdateContainerResources(_ context.Context, q *cri.UpdateContainerResourcesRequest) (*cri.UpdateContainerResourcesResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note("resize %s shares %d", r.containers[q.ContainerId].status.Metadata.Name, q.Linux.CpuShares)
	return &cri.UpdateContainerResourcesResponse{}, nil
}

func (r *Runtime) GetContainerEvents(_ *cri.GetEventsRequest, stream cri.RuntimeService_GetContainerEventsServer) error {
	events := make(chan *cri.ContainerEventResponse, 100)
	r.mu.Lock()
	r.watchers[events] = true
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.watchers, events)
		r.mu.Unlock()
	}()
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case e := <-events:
			if err := stream.Send(e); err != nil {
				return err
			}
		}
	}
}

func (r *Runtime) ImageStatus(_ context.Context, q *cri.ImageStatusRequest) (*cri.ImageStatusResponse, error) {
	if r.Missing[q.Image.Image] {
		return &cri.ImageStatusResponse{}, nil
	}
	return &cri.ImageStatusResponse{Image: &cri.Image{Id: q.Image.Image, Uid: &cri.Int64Value{Value: 0}}}, nil
}

func (r *Runtime) PullImage(_ context.Context, q *cri.PullImageRequest) (*cri.PullImageResponse, error) {
	if r.Missing[q.Image.Image] {
		return nil, status.Error(codes.Unknown, "no such image")
	}
	return &cri.PullImageResponse{ImageRef: q.Image.Image}, nil
}
