package pods

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	sysctlnames "k8s.io/component-helpers/node/util/sysctl"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/kubelet/resources"
	"github.com/skiff-k8s/skiff/kubelet/runtime"
)

// createSandbox makes the pod's sandbox.
func (m *Manager) createSandbox(ctx context.Context, pod *v1.Pod, attempt uint32) error {
	if err := unsupported(&pod.Spec); err != nil {
		return err
	}
	config, err := m.sandboxConfig(pod, attempt)
	if err != nil {
		return err
	}
	handler, err := m.runtimeHandler(ctx, pod)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(config.LogDirectory, 0o755); err != nil {
		return fmt.Errorf("create the log directory: %w", err)
	}
	_, err = m.cfg.Runtime.RunSandbox(ctx, config, handler)
	return err
}

// unsupported says what the pod asks for that no node of this kubelet has. Without it the pod would run,
// but not as it was meant to.
func unsupported(spec *v1.PodSpec) error {
	if spec.HostUsers != nil && !*spec.HostUsers {
		return errors.New("user namespaces (hostUsers: false) are not supported by this node")
	}
	for _, c := range allContainers(spec) {
		if len(c.VolumeDevices) > 0 {
			return fmt.Errorf("block devices (volumeDevices of container %s) are not supported by this node", c.Name)
		}
	}
	return nil
}

// sandboxConfig describes the pod's sandbox; containers need the same description again.
func (m *Manager) sandboxConfig(pod *v1.Pod, attempt uint32) (*cri.PodSandboxConfig, error) {
	config := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID), Attempt: attempt},
		Labels:       runtime.SandboxLabels(pod),
		Annotations:  pod.Annotations,
		LogDirectory: m.logDir(pod),
		PortMappings: portMappings(pod),
	}
	dns, complaint, err := m.cfg.DNS.config(pod)
	if err != nil {
		return nil, err
	}
	if complaint != "" {
		m.event(pod, "", v1.EventTypeWarning, "DNSConfigForming", complaint)
	}
	config.DnsConfig = dns

	if !pod.Spec.HostNetwork {
		name, domain, err := hostname(pod, m.cfg.DNS.Domain)
		if err != nil {
			return nil, err
		}
		if config.Hostname, err = fqdn(pod, name, domain); err != nil {
			return nil, err
		}
	}
	config.Linux = &cri.LinuxPodSandboxConfig{
		CgroupParent:    m.cfg.Cgroups.PodParent(pod),
		SecurityContext: sandboxSecurity(pod),
		Sysctls:         sysctls(pod),
		Resources:       resources.Sandbox(pod),
		Overhead:        resources.Overhead(pod),
	}
	return config, nil
}

// portMappings are the pod's ports as the runtime's network plugins map them. On the host's network
// there is nothing to map.
func portMappings(pod *v1.Pod) []*cri.PortMapping {
	if pod.Spec.HostNetwork {
		return nil
	}
	var mappings []*cri.PortMapping
	for _, c := range allContainers(&pod.Spec) {
		for _, p := range c.Ports {
			protocol := cri.Protocol_TCP
			switch p.Protocol {
			case v1.ProtocolUDP:
				protocol = cri.Protocol_UDP
			case v1.ProtocolSCTP:
				protocol = cri.Protocol_SCTP
			}
			mappings = append(mappings, &cri.PortMapping{
				Protocol: protocol, ContainerPort: p.ContainerPort, HostPort: p.HostPort, HostIp: p.HostIP,
			})
		}
	}
	return mappings
}

func sysctls(pod *v1.Pod) map[string]string {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	all := map[string]string{}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		all[sysctlnames.NormalizeName(s.Name)] = s.Value // with dots, as runc wants it
	}
	return all
}

// runtimeHandler is the handler of the pod's runtime class, "" for the default.
func (m *Manager) runtimeHandler(ctx context.Context, pod *v1.Pod) (string, error) {
	if pod.Spec.RuntimeClassName == nil || *pod.Spec.RuntimeClassName == "" {
		return "", nil
	}
	class, err := m.cfg.Client.NodeV1().RuntimeClasses().Get(ctx, *pod.Spec.RuntimeClassName, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("failed to get RuntimeClass %q: %w", *pod.Spec.RuntimeClassName, err)
	}
	return class.Handler, nil
}

// logDir is where the logs of a pod's containers are.
func (m *Manager) logDir(pod *v1.Pod) string {
	return filepath.Join(m.cfg.LogDir, pod.Namespace+"_"+pod.Name+"_"+string(pod.UID))
}

// podDir is where the node keeps the pod's own files.
func (m *Manager) podDir(pod *v1.Pod) string {
	return filepath.Join(m.cfg.RootDir, "pods", string(pod.UID))
}

func (m *Manager) seccompRoot() string { return filepath.Join(m.cfg.RootDir, "seccomp") }

// allContainers are the pod's init and main containers.
func allContainers(spec *v1.PodSpec) []*v1.Container {
	var all []*v1.Container
	for i := range spec.InitContainers {
		all = append(all, &spec.InitContainers[i])
	}
	for i := range spec.Containers {
		all = append(all, &spec.Containers[i])
	}
	return all
}
