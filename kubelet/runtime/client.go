// Package runtime speaks CRI v1 with the container runtime of the node.
//
// Client is the connection; Pod (state.go) is what a pod worker needs to know of the runtime, read
// afresh with Client.Pod; Watch (watch.go) says which pods changed. Labels and annotations on sandboxes
// and containers (labels.go) carry the upstream kubelet's names, so that crictl and other tools
// recognise them and a restarted kubelet finds everything again.
package runtime

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// callTimeout bounds a call that has no time limit of its own, as the runtime can hang.
const callTimeout = 2 * time.Minute

// startTimeout is how long a runtime may take to come up.
const startTimeout = 30 * time.Second

// reconnect is how often a runtime that went away is looked for.
var reconnect = backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second}

// maxMessage is the largest answer taken from the runtime; ListContainers of a full node passes grpc's 4 MiB.
const maxMessage = 16 << 20

// Client is a connection to a CRI v1 runtime and its image service on the same socket. It is safe for
// concurrent use. Every method may return a grpc status error.
type Client struct {
	// Primary is the IP family of which a pod's first address is; empty: that which
	// the runtime tells first.
	Primary v1.IPFamily

	conn   *grpc.ClientConn
	cri    cri.RuntimeServiceClient
	images cri.ImageServiceClient

	name, version string
	rootDir       string
}

// Dial connects to the runtime's socket (a path or a unix:// URL) and asks its name and version. A
// runtime that is still starting is waited for. Containers' termination messages are below rootDir.
func Dial(ctx context.Context, endpoint, rootDir string) (*Client, error) {
	if strings.HasPrefix(endpoint, "/") {
		endpoint = "unix://" + endpoint
	}
	conn, err := grpc.NewClient(endpoint,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority("localhost"),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		return nil, fmt.Errorf("connect to the container runtime at %s: %w", endpoint, err)
	}
	c := &Client{conn: conn, cri: cri.NewRuntimeServiceClient(conn), images: cri.NewImageServiceClient(conn), rootDir: rootDir}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	v, err := c.cri.Version(ctx, &cri.VersionRequest{Version: "v1"}, grpc.WaitForReady(true))
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("ask the container runtime at %s for its version: %w", endpoint, err)
	}
	c.name, c.version = v.RuntimeName, v.RuntimeVersion
	return c, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Name is the runtime's name as it stands before "://" in a container ID.
func (c *Client) Name() string { return c.name }

// RuntimeVersion is the runtime's version as the node reports it, "containerd://2.4.2".
func (c *Client) RuntimeVersion() string { return c.name + "://" + strings.TrimPrefix(c.version, "v") }

// ContainerID is the runtime's id as the API writes it, "containerd://<id>".
func (c *Client) ContainerID(id string) string { return c.name + "://" + id }

// TrimID takes an API container ID back to the runtime's own.
func TrimID(containerID string) string {
	if _, id, found := strings.Cut(containerID, "://"); found {
		return id
	}
	return containerID
}

// IsNotFound says that the runtime does not know the sandbox, container or image.
func IsNotFound(err error) bool { return status.Code(err) == codes.NotFound }

// Message is the runtime's own text of an error, without grpc's prefix.
func Message(err error) string {
	if s, ok := status.FromError(err); ok {
		return s.Message()
	}
	return err.Error()
}

// Status asks for the runtime's conditions RuntimeReady and NetworkReady and its handlers.
func (c *Client) Status(ctx context.Context) (*cri.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return c.cri.Status(ctx, &cri.StatusRequest{})
}

// SetPodCIDR tells the runtime the node's pod range; runtimes with a CNI configuration of their own ignore it.
func (c *Client) SetPodCIDR(ctx context.Context, cidr string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := c.cri.UpdateRuntimeConfig(ctx, &cri.UpdateRuntimeConfigRequest{
		RuntimeConfig: &cri.RuntimeConfig{NetworkConfig: &cri.NetworkConfig{PodCidr: cidr}},
	})
	return err
}

// RunSandbox makes and starts a sandbox and its network, and returns its id.
func (c *Client) RunSandbox(ctx context.Context, config *cri.PodSandboxConfig, handler string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*callTimeout)
	defer cancel()
	r, err := c.cri.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	return r.GetPodSandboxId(), err
}

// StopSandbox stops what is left in a sandbox and takes its network down. It may be repeated.
func (c *Client) StopSandbox(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := c.cri.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: id})
	return ignoreNotFound(err)
}

// RemoveSandbox removes a stopped sandbox with all its containers. It may be repeated.
func (c *Client) RemoveSandbox(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := c.cri.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: id})
	return ignoreNotFound(err)
}

// CreateContainer makes a container in a sandbox and returns its id.
func (c *Client) CreateContainer(ctx context.Context, sandbox string, config *cri.ContainerConfig, sandboxConfig *cri.PodSandboxConfig) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := c.cri.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: sandbox, Config: config, SandboxConfig: sandboxConfig})
	return r.GetContainerId(), err
}

// StartContainer starts a created container.
func (c *Client) StartContainer(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := c.cri.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: id})
	return err
}

// StopContainer sends the stop signal and, grace later, SIGKILL; it returns when the container has
// exited. It may be repeated.
func (c *Client) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, grace+callTimeout)
	defer cancel()
	_, err := c.cri.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: int64(grace / time.Second)})
	return ignoreNotFound(err)
}

// RemoveContainer removes a stopped container, not its log. It may be repeated.
func (c *Client) RemoveContainer(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := c.cri.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: id})
	return ignoreNotFound(err)
}

// UpdateContainer changes the resource limits of a running container.
func (c *Client) UpdateContainer(ctx context.Context, id string, linux *cri.LinuxContainerResources) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := c.cri.UpdateContainerResources(ctx, &cri.UpdateContainerResourcesRequest{ContainerId: id, Linux: linux})
	return err
}

// ReopenLog makes the runtime open a container's log file anew, after rotation renamed it.
func (c *Client) ReopenLog(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := c.cri.ReopenContainerLog(ctx, &cri.ReopenContainerLogRequest{ContainerId: id})
	return err
}

// Exec runs a command in a container and returns its output (standard output, then standard error) and
// exit code. An expired timeout (0 is none) is an error.
func (c *Client) Exec(ctx context.Context, id string, cmd []string, timeout time.Duration) (output []byte, exitCode int, err error) {
	if timeout > 0 {
		// The runtime enforces the timeout itself; the extra second lets its answer come through.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout+time.Second)
		defer cancel()
	}
	seconds := int64((timeout + time.Second - 1) / time.Second)
	r, err := c.cri.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: cmd, Timeout: seconds})
	if err != nil {
		return nil, 0, err
	}
	return append(r.Stdout, r.Stderr...), int(r.ExitCode), nil
}

// ExecURL prepares an interactive exec and returns the URL of the runtime's streaming server for it.
func (c *Client) ExecURL(ctx context.Context, r *cri.ExecRequest) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	a, err := c.cri.Exec(ctx, r)
	return a.GetUrl(), err
}

// AttachURL prepares an attach, like ExecURL.
func (c *Client) AttachURL(ctx context.Context, r *cri.AttachRequest) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	a, err := c.cri.Attach(ctx, r)
	return a.GetUrl(), err
}

// PortForwardURL prepares port forwarding into a sandbox, like ExecURL.
func (c *Client) PortForwardURL(ctx context.Context, r *cri.PortForwardRequest) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	a, err := c.cri.PortForward(ctx, r)
	return a.GetUrl(), err
}

// Image returns the image's state, or nil when the node does not have it.
func (c *Client) Image(ctx context.Context, spec *cri.ImageSpec) (*cri.Image, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := c.images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: spec})
	return r.GetImage(), err
}

// ListImages returns all images of the node.
func (c *Client) ListImages(ctx context.Context) ([]*cri.Image, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := c.images.ListImages(ctx, &cri.ListImagesRequest{})
	return r.GetImages(), err
}

// PullImage pulls an image, with credentials unless auth is nil, and returns its reference in the
// runtime. It takes as long as it takes: only ctx bounds it.
func (c *Client) PullImage(ctx context.Context, spec *cri.ImageSpec, auth *cri.AuthConfig, sandbox *cri.PodSandboxConfig) (string, error) {
	r, err := c.images.PullImage(ctx, &cri.PullImageRequest{Image: spec, Auth: auth, SandboxConfig: sandbox})
	return r.GetImageRef(), err
}

// RemoveImage removes an image and all its names. It may be repeated.
func (c *Client) RemoveImage(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := c.images.RemoveImage(ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: id}})
	return ignoreNotFound(err)
}

// ImageFilesystem returns the mount point and the used bytes of the runtime's image store.
func (c *Client) ImageFilesystem(ctx context.Context) (mountpoint string, used uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := c.images.ImageFsInfo(ctx, &cri.ImageFsInfoRequest{})
	if err != nil {
		return "", 0, err
	}
	if len(r.ImageFilesystems) == 0 {
		return "", 0, fmt.Errorf("the container runtime reports no image filesystem")
	}
	fs := r.ImageFilesystems[0]
	return fs.FsId.GetMountpoint(), fs.UsedBytes.GetValue(), nil
}

// Service and ImageService are the plain CRI clients, for statistics.
func (c *Client) Service() cri.RuntimeServiceClient    { return c.cri }
func (c *Client) ImageService() cri.ImageServiceClient { return c.images }

func ignoreNotFound(err error) error {
	if IsNotFound(err) {
		return nil
	}
	return err
}
