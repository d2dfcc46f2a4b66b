package connect

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// defaultKubeletPort is where a kubelet listens that does not say.
const defaultKubeletPort = 10250

// addressOrder is which of a node's addresses is tried first.
var addressOrder = []corev1.NodeAddressType{
	corev1.NodeInternalIP, corev1.NodeExternalIP, corev1.NodeInternalDNS, corev1.NodeExternalDNS, corev1.NodeHostName,
}

func (h *Handler) pod(ctx context.Context, t Target, name string) (*corev1.Pod, error) {
	obj, err := h.cluster.Get(ctx, h.cluster.Resource("", "pods"), t.Namespace, name)
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Pod), nil
}

// kubeletAddress is host:port of the kubelet of a node.
func (h *Handler) kubeletAddress(ctx context.Context, node string) (string, error) {
	obj, err := h.cluster.Get(ctx, h.cluster.Resource("", "nodes"), "", node)
	if err != nil {
		return "", err
	}
	return addressOf(obj.(*corev1.Node))
}

func addressOf(n *corev1.Node) (string, error) {
	for _, want := range addressOrder {
		i := slices.IndexFunc(n.Status.Addresses, func(a corev1.NodeAddress) bool { return a.Type == want && a.Address != "" })
		if i < 0 {
			continue
		}
		port := int(n.Status.DaemonEndpoints.KubeletEndpoint.Port)
		if port <= 0 {
			port = defaultKubeletPort
		}
		return net.JoinHostPort(n.Status.Addresses[i].Address, strconv.Itoa(port)), nil
	}
	return "", fmt.Errorf("no preferred addresses found; known addresses: %v", n.Status.Addresses)
}

// GetKubelet sends a GET to the kubelet of a node. The caller closes the body, which has no limit.
func (h *Handler) GetKubelet(ctx context.Context, node *corev1.Node, path string) (*http.Response, error) {
	host, err := addressOf(node)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, (&url.URL{Scheme: "https", Host: host, Path: path}).String(), nil)
	if err != nil {
		return nil, err
	}
	return h.kubelet.RoundTrip(r)
}

// session is where a kubelet serves something of a pod.
func (h *Handler) session(ctx context.Context, pod *corev1.Pod, path string, query url.Values) (*url.URL, error) {
	if pod.Spec.NodeName == "" {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))
	}
	host, err := h.kubeletAddress(ctx, pod.Spec.NodeName)
	if err != nil {
		return nil, err
	}
	return &url.URL{Scheme: "https", Host: host, Path: path, RawQuery: query.Encode()}, nil
}

// container is the name of the container meant: the one asked for, or the only
// one there is.
func container(pod *corev1.Pod, name string) (string, error) {
	names := containerNames(pod)
	switch {
	case name != "" && !slices.Contains(names, name):
		return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name))
	case name != "":
		return name, nil
	case len(pod.Spec.Containers) == 0:
		return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s", pod.Name))
	case len(pod.Spec.Containers) > 1:
		return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s, choose one of: %s", pod.Name, names))
	}
	return pod.Spec.Containers[0].Name, nil
}

// containerNames are the containers of every sort, in the order they start.
func containerNames(pod *corev1.Pod) []string {
	var names []string
	for _, c := range pod.Spec.InitContainers {
		names = append(names, c.Name)
	}
	for _, c := range pod.Spec.Containers {
		names = append(names, c.Name)
	}
	for _, c := range pod.Spec.EphemeralContainers {
		names = append(names, c.Name)
	}
	return names
}
