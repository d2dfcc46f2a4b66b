package runtime

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/family"
)

// Pod is what the runtime has of one pod, newest first. It is a copy: whoever holds it may keep it.
type Pod struct {
	UID       types.UID
	Namespace string
	Name      string

	Sandboxes  []Sandbox
	Containers []Container
}

// Sandbox is one sandbox of a pod.
type Sandbox struct {
	ID          string
	Attempt     uint32
	Ready       bool
	HostNetwork bool
	CreatedAt   time.Time
	IPs         []string // known for the newest sandbox only
}

// State is a container's state in the runtime.
type State int

// States of a container. Unknown is what the runtime says when it lost track of it.
const (
	Unknown State = iota
	Created
	Running
	Exited
)

// Container is one run of a container of the pod.
type Container struct {
	ID        string
	Name      string
	SandboxID string
	State     State

	Image    string // as the runtime names it
	ImageRef string // digested reference, for status.imageID
	Hash     string // Hash of the definition it was made from
	Restarts int

	CreatedAt, StartedAt, FinishedAt time.Time

	ExitCode int32
	Reason   string
	Message  string

	LogPath string
	Mounts  []*cri.Mount
	User    *cri.ContainerUser

	// Spec is the definition as far as the annotations keep it: hooks, ports, termination message.
	Spec *v1.Container
	// Grace is the pod's termination grace, or nil when the annotations do not tell.
	Grace *time.Duration
}

// Latest is the newest run of the named container, or nil.
func (p *Pod) Latest(name string) *Container {
	for i := range p.Containers {
		if p.Containers[i].Name == name {
			return &p.Containers[i]
		}
	}
	return nil
}

// ReadySandbox is the newest sandbox if it is ready, or nil.
func (p *Pod) ReadySandbox() *Sandbox {
	if len(p.Sandboxes) > 0 && p.Sandboxes[0].Ready {
		return &p.Sandboxes[0]
	}
	return nil
}

// Live are the containers that run or may run.
func (p *Pod) Live() []Container {
	var live []Container
	for _, c := range p.Containers {
		if c.State == Running || c.State == Unknown {
			live = append(live, c)
		}
	}
	return live
}

// Pod reads the pod's sandboxes and containers. A pod of which the runtime knows nothing is empty, not
// an error.
func (c *Client) Pod(ctx context.Context, uid types.UID) (*Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	label := map[string]string{LabelPodUID: string(uid)}
	pod := &Pod{UID: uid}
	// Containers first: of a sandbox that dies with them in between, the end is seen
	// at least. The other way round a container would be started in a dead sandbox.
	if err := c.readContainers(ctx, pod, label); err != nil {
		return nil, err
	}
	if err := c.readSandboxes(ctx, pod, label); err != nil {
		return nil, err
	}
	return pod, nil
}

func (c *Client) readContainers(ctx context.Context, pod *Pod, label map[string]string) error {
	containers, err := c.cri.ListContainers(ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{LabelSelector: label}})
	if err != nil {
		return fmt.Errorf("list containers of pod %s: %w", pod.UID, err)
	}
	for _, s := range containers.Containers {
		full, err := c.readContainer(ctx, s)
		if IsNotFound(err) {
			continue // removed since it was listed
		}
		if err != nil {
			return fmt.Errorf("read the state of container %s: %w", s.Id, err)
		}
		pod.Containers = append(pod.Containers, full)
	}
	slices.SortFunc(pod.Containers, func(a, b Container) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(b.Restarts, a.Restarts))
	})
	return nil
}

func (c *Client) readSandboxes(ctx context.Context, pod *Pod, label map[string]string) error {
	sandboxes, err := c.cri.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{LabelSelector: label}})
	if err != nil {
		return fmt.Errorf("list sandboxes of pod %s: %w", pod.UID, err)
	}
	for _, s := range sandboxes.Items {
		pod.Namespace, pod.Name = s.Metadata.GetNamespace(), s.Metadata.GetName()
		pod.Sandboxes = append(pod.Sandboxes, Sandbox{
			ID:        s.Id,
			Attempt:   s.Metadata.GetAttempt(),
			Ready:     s.State == cri.PodSandboxState_SANDBOX_READY,
			CreatedAt: time.Unix(0, s.CreatedAt),
		})
	}
	slices.SortFunc(pod.Sandboxes, func(a, b Sandbox) int { return b.CreatedAt.Compare(a.CreatedAt) })
	return c.readSandbox(ctx, pod)
}

// readSandbox completes the newest sandbox with its network.
func (c *Client) readSandbox(ctx context.Context, pod *Pod) error {
	if len(pod.Sandboxes) == 0 {
		return nil
	}
	newest := &pod.Sandboxes[0]
	r, err := c.cri.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: newest.ID})
	if IsNotFound(err) {
		pod.Sandboxes = pod.Sandboxes[1:]
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the state of sandbox %s: %w", newest.ID, err)
	}
	newest.Ready = r.Status.State == cri.PodSandboxState_SANDBOX_READY
	newest.HostNetwork = r.Status.GetLinux().GetNamespaces().GetOptions().GetNetwork() == cri.NamespaceMode_NODE
	if newest.Ready && r.Status.Network.GetIp() != "" {
		newest.IPs = append(newest.IPs, r.Status.Network.Ip)
		for _, ip := range r.Status.Network.AdditionalIps {
			newest.IPs = append(newest.IPs, ip.Ip)
		}
		sortPrimary(newest.IPs, c.Primary)
	}
	return nil
}

// sortPrimary puts addresses of a family before the others.
func sortPrimary(ips []string, f v1.IPFamily) {
	slices.SortStableFunc(ips, func(a, b string) int {
		isA, _ := family.OfText(a)
		isB, _ := family.OfText(b)
		switch {
		case isA == f && isB != f:
			return -1
		case isA != f && isB == f:
			return 1
		}
		return 0
	})
}

func (c *Client) readContainer(ctx context.Context, listed *cri.Container) (Container, error) {
	r, err := c.cri.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: listed.Id})
	if err != nil {
		return Container{}, err
	}
	s := r.Status
	full := Container{
		ID:        s.Id,
		Name:      s.Labels[LabelContainerName],
		SandboxID: listed.PodSandboxId,
		State:     stateOf(s.State),
		Image:     s.Image.GetImage(),
		ImageRef:  s.ImageRef,
		Hash:      s.Annotations[annotationHash],
		CreatedAt: time.Unix(0, s.CreatedAt),
		LogPath:   s.LogPath,
		Mounts:    s.Mounts,
		User:      s.User,
		Spec:      restoredContainer(s.Labels[LabelContainerName], s.Annotations),
	}
	full.Restarts, _ = strconv.Atoi(s.Annotations[annotationRestartCount]) // absent on foreign containers: 0
	full.Grace = graceOf(s.Annotations)
	if full.State != Created {
		full.StartedAt = time.Unix(0, s.StartedAt)
	}
	if full.State == Exited {
		full.FinishedAt = time.Unix(0, s.FinishedAt)
		full.ExitCode, full.Reason = s.ExitCode, s.Reason
		full.Message = exitMessage(ctx, s, c.rootDir)
	}
	return full, nil
}

func stateOf(s cri.ContainerState) State {
	switch s {
	case cri.ContainerState_CONTAINER_CREATED:
		return Created
	case cri.ContainerState_CONTAINER_RUNNING:
		return Running
	case cri.ContainerState_CONTAINER_EXITED:
		return Exited
	default:
		return Unknown
	}
}

func graceOf(annotations map[string]string) *time.Duration {
	for _, name := range []string{annotationDeletionGrace, annotationGrace} {
		seconds, err := strconv.ParseInt(annotations[name], 10, 64)
		if err == nil {
			grace := time.Duration(seconds) * time.Second
			return &grace
		}
	}
	return nil
}

// Log is a container's log file and whether the container runs.
func (c *Client) Log(ctx context.Context, id string) (path string, running bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := c.cri.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return "", false, err
	}
	return r.Status.LogPath, r.Status.State == cri.ContainerState_CONTAINER_RUNNING, nil
}

// RunningContainers are the ids of all containers that run.
func (c *Client) RunningContainers(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := c.cri.ListContainers(ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{
		State: &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING},
	}})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var ids []string
	for _, container := range r.Containers {
		ids = append(ids, container.Id)
	}
	return ids, nil
}

// ImagesInUse are the ids and names of the images of all containers.
func (c *Client) ImagesInUse(ctx context.Context) (map[string]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := c.cri.ListContainers(ctx, &cri.ListContainersRequest{})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	used := map[string]bool{}
	for _, container := range r.Containers {
		used[container.GetImage().GetImage()] = true
		used[container.ImageRef] = true
		used[container.ImageId] = true
	}
	return used, nil
}
