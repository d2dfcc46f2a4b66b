package pods

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/kubelet/env"
	"github.com/skiff-k8s/skiff/kubelet/resources"
	"github.com/skiff-k8s/skiff/kubelet/runtime"
)

// containerSpec is what a container's configuration is made from.
type containerSpec struct {
	pod      *v1.Pod
	c        *v1.Container
	imageRef string            // of the pulled image
	volumes  map[string]string // pulled images of image volumes, by volume name
	podIPs   []string
	restarts int
	target   string // id of the container whose processes it sees, "" for none
}

// containerConfig describes the container to the runtime and makes the files it mounts.
func (m *Manager) containerConfig(ctx context.Context, s containerSpec) (*cri.ContainerConfig, error) {
	vars, err := env.Make(ctx, env.Source{
		Pod: s.pod, Container: s.c,
		PodIPs: s.podIPs, HostIPs: m.cfg.HostIPs,
		Allocatable: m.cfg.Node().Status.Allocatable,
		Services:    m.cfg.Services(),
		Objects:     m.cfg.Volumes,
		VolumePath:  func(volume string) string { return m.cfg.Volumes.HostPath(s.pod, volume) },
	})
	if err != nil {
		return nil, err
	}
	lookup := env.Lookup(env.Map(vars))
	mounts, err := m.mounts(ctx, s, lookup)
	if err != nil {
		return nil, err
	}
	image, err := m.cfg.Runtime.Image(ctx, &cri.ImageSpec{Image: s.imageRef})
	if err != nil {
		return nil, fmt.Errorf("inspect image %q: %w", s.c.Image, err)
	}
	security, err := containerSecurity(s.pod, s.c, imageUserOf(image), s.target, m.seccompRoot(), m.cfg.AppArmor)
	if err != nil {
		return nil, err
	}
	logPath := filepath.Join(s.c.Name, fmt.Sprintf("%d.log", s.restarts))
	if err := os.MkdirAll(filepath.Join(m.logDir(s.pod), s.c.Name), 0o755); err != nil {
		return nil, fmt.Errorf("create container log directory for container %s: %w", s.c.Name, err)
	}

	config := &cri.ContainerConfig{
		Metadata:    &cri.ContainerMetadata{Name: s.c.Name, Attempt: uint32(s.restarts)},
		Image:       &cri.ImageSpec{Image: s.imageRef, UserSpecifiedImage: s.c.Image},
		Command:     env.ExpandAll(s.c.Command, lookup),
		Args:        env.ExpandAll(s.c.Args, lookup),
		WorkingDir:  s.c.WorkingDir,
		Mounts:      mounts,
		Labels:      runtime.ContainerLabels(s.pod, s.c.Name),
		Annotations: runtime.ContainerAnnotations(s.pod, s.c, s.restarts),
		LogPath:     logPath,
		Stdin:       s.c.Stdin,
		StdinOnce:   s.c.StdinOnce,
		Tty:         s.c.TTY,
		Linux: &cri.LinuxContainerConfig{
			Resources:       resources.Linux(s.pod, s.c, m.cfg.Resources),
			SecurityContext: security,
		},
	}
	if s.c.Lifecycle != nil && s.c.Lifecycle.StopSignal != nil {
		config.StopSignal = cri.Signal(cri.Signal_value[string(*s.c.Lifecycle.StopSignal)])
	}
	ids, err := m.cfg.Devices.IDs(s.pod, s.c)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		config.CDIDevices = append(config.CDIDevices, &cri.CDIDevice{Name: id})
	}
	for _, v := range vars {
		config.Envs = append(config.Envs, &cri.KeyValue{Key: v.Name, Value: []byte(v.Value)})
	}
	return config, nil
}

// mounts are the container's volumes, its hosts file and its termination message file.
func (m *Manager) mounts(ctx context.Context, s containerSpec, lookup func(string) (string, bool)) ([]*cri.Mount, error) {
	var mounts []*cri.Mount
	ownHosts := false
	for i, vm := range s.c.VolumeMounts {
		mount, err := m.volumeMount(ctx, s, i, vm, lookup)
		if err != nil {
			return nil, err
		}
		mounts = append(mounts, mount)
		ownHosts = ownHosts || filepath.Clean(vm.MountPath) == "/etc/hosts"
	}
	if !ownHosts && (s.pod.Spec.HostNetwork || len(s.podIPs) > 0) {
		path, err := m.writeHosts(s.pod, s.podIPs)
		if err != nil {
			return nil, err
		}
		mounts = append(mounts, &cri.Mount{ContainerPath: "/etc/hosts", HostPath: path})
	}
	if s.c.TerminationMessagePath != "" {
		path, err := m.writeMessageFile(s.pod, s.c.Name)
		if err != nil {
			return nil, err
		}
		mounts = append(mounts, &cri.Mount{ContainerPath: absolute(s.c.TerminationMessagePath), HostPath: path})
	}
	return mounts, nil
}

func absolute(path string) string {
	if strings.HasPrefix(path, "/") {
		return path
	}
	return "/" + path
}

func (m *Manager) volumeMount(ctx context.Context, s containerSpec, index int, vm v1.VolumeMount, lookup func(string) (string, bool)) (*cri.Mount, error) {
	volume := findVolume(&s.pod.Spec, vm.Name)
	if volume == nil {
		return nil, fmt.Errorf("cannot find volume %q to mount into container %q", vm.Name, s.c.Name)
	}
	subPath, err := expandSubPath(vm, lookup)
	if err != nil {
		return nil, err
	}
	mount := &cri.Mount{ContainerPath: absolute(vm.MountPath), Readonly: vm.ReadOnly || m.cfg.Volumes.ReadOnly(volume)}
	if volume.Image != nil {
		mount.Image = &cri.ImageSpec{Image: s.volumes[vm.Name], UserSpecifiedImage: volume.Image.Reference}
		mount.ImageSubPath = subPath
		mount.Readonly = true
		return mount, nil
	}
	if mount.Propagation, err = propagation(vm.MountPropagation); err != nil {
		return nil, err
	}
	if mount.RecursiveReadOnly, err = m.recursiveReadOnly(vm, mount.Propagation); err != nil {
		return nil, err
	}
	mount.HostPath = m.cfg.Volumes.HostPath(s.pod, vm.Name)
	if subPath != "" {
		mount.HostPath, err = m.cfg.Volumes.SubPath(ctx, s.pod, s.c.Name, index, vm, subPath)
		if err != nil {
			return nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", vm.Name, s.c.Name, err)
		}
	}
	if mount.HostPath == "" {
		return nil, fmt.Errorf("volume %q has nothing to mount into container %q", vm.Name, s.c.Name)
	}
	return mount, nil
}

// expandSubPath is the mount's path within its volume. It may not leave the volume by its text; that it
// does not by links either is seen to when it is opened.
func expandSubPath(vm v1.VolumeMount, lookup func(string) (string, bool)) (string, error) {
	subPath := vm.SubPath
	if vm.SubPathExpr != "" {
		var missing []string // an empty value is none: it would mount the whole volume
		subPath = env.Expand(vm.SubPathExpr, func(name string) (string, bool) {
			value, found := lookup(name)
			if value == "" {
				missing = append(missing, name)
			}
			return value, found
		})
		if len(missing) > 0 {
			slices.Sort(missing)
			return "", fmt.Errorf("missing value for %s", strings.Join(slices.Compact(missing), ", "))
		}
	}
	switch {
	case subPath == "":
		return "", nil
	case filepath.IsAbs(subPath):
		return "", fmt.Errorf("error SubPath `%s` must not be an absolute path", subPath)
	}
	for part := range strings.SplitSeq(filepath.ToSlash(subPath), "/") {
		if part == ".." {
			return "", fmt.Errorf("unable to provision SubPath `%s`: must not contain '..'", subPath)
		}
	}
	return subPath, nil
}

func propagation(mode *v1.MountPropagationMode) (cri.MountPropagation, error) {
	if mode == nil {
		return cri.MountPropagation_PROPAGATION_PRIVATE, nil
	}
	switch *mode {
	case v1.MountPropagationNone:
		return cri.MountPropagation_PROPAGATION_PRIVATE, nil
	case v1.MountPropagationHostToContainer:
		return cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER, nil
	case v1.MountPropagationBidirectional:
		return cri.MountPropagation_PROPAGATION_BIDIRECTIONAL, nil
	}
	return 0, fmt.Errorf("invalid MountPropagation mode: %q", *mode)
}

// recursiveReadOnly resolves the mount's recursiveReadOnly against what the runtime can do.
func (m *Manager) recursiveReadOnly(vm v1.VolumeMount, p cri.MountPropagation) (bool, error) {
	if vm.RecursiveReadOnly == nil || *vm.RecursiveReadOnly == v1.RecursiveReadOnlyDisabled {
		return false, nil
	}
	if !vm.ReadOnly {
		return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not read-only", vm.Name)
	}
	if p != cri.MountPropagation_PROPAGATION_PRIVATE {
		return false, fmt.Errorf("volume %q requested recursive read-only mode, but mount propagation is not None", vm.Name)
	}
	if !m.cfg.RecursiveReadOnly && *vm.RecursiveReadOnly == v1.RecursiveReadOnlyEnabled {
		return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not supported by the runtime", vm.Name)
	}
	return m.cfg.RecursiveReadOnly, nil
}

// writeHosts writes the pod's hosts file, which all its containers share.
func (m *Manager) writeHosts(pod *v1.Pod, podIPs []string) (string, error) {
	name, domain, err := hostname(pod, m.cfg.DNS.Domain)
	if err != nil {
		return "", err
	}
	var node []byte
	if pod.Spec.HostNetwork {
		if node, err = os.ReadFile("/etc/hosts"); err != nil {
			return "", fmt.Errorf("read the node's hosts file: %w", err)
		}
	}
	path := filepath.Join(m.podDir(pod), "etc-hosts")
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return "", err
	}
	// Written in place: containers that run have the file itself mounted.
	if err := os.WriteFile(path, hostsFile(pod, podIPs, name, domain, node), 0o644); err != nil {
		return "", fmt.Errorf("write the pod's hosts file: %w", err)
	}
	return path, os.Chmod(path, 0o644)
}

// writeMessageFile makes the empty file for the termination message, a new one for each run. Whatever
// user the container runs as may write it.
func (m *Manager) writeMessageFile(pod *v1.Pod, container string) (string, error) {
	var run [4]byte
	if _, err := rand.Read(run[:]); err != nil {
		return "", err
	}
	dir := filepath.Join(m.podDir(pod), "containers", container)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", fmt.Errorf("create the directory for termination messages: %w", err)
	}
	path := filepath.Join(dir, hex.EncodeToString(run[:]))
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		return "", fmt.Errorf("create the termination message file: %w", err)
	}
	return path, os.Chmod(path, 0o666) // the umask must not count
}

func findVolume(spec *v1.PodSpec, name string) *v1.Volume {
	for i := range spec.Volumes {
		if spec.Volumes[i].Name == name {
			return &spec.Volumes[i]
		}
	}
	return nil
}
