package connect

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/skiff-k8s/skiff/apiserver/reach"
)

// proxyPod serves pods/proxy. Without a port it is the first the pod declares.
func (h *Handler) proxyPod(w http.ResponseWriter, r *http.Request, t Target) error {
	ref, err := parse("pod", t.Name)
	if err != nil {
		return err
	}
	pod, err := h.pod(r.Context(), t, ref.name)
	if err != nil {
		return err
	}
	if err := routable(pod.Status.PodIP); err != nil {
		return err
	}
	host := pod.Status.PodIP
	if port := firstPort(pod, ref.port); port != "" {
		host = net.JoinHostPort(host, port)
	}
	h.proxy(w, r, t, &url.URL{Scheme: ref.scheme, Host: host}, h.pods)
	return nil
}

func firstPort(pod *corev1.Pod, asked string) string {
	if asked != "" {
		return asked
	}
	for _, c := range pod.Spec.Containers {
		if len(c.Ports) > 0 {
			return strconv.Itoa(int(c.Ports[0].ContainerPort))
		}
	}
	return ""
}

// proxyNode serves nodes/proxy: the kubelet, or another port of the node.
func (h *Handler) proxyNode(w http.ResponseWriter, r *http.Request, t Target) error {
	ref, err := parse("node", t.Name)
	if err != nil {
		return err
	}
	kubelet, err := h.kubeletAddress(r.Context(), ref.name)
	if err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(kubelet)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	if err := routable(host); err != nil {
		return err
	}
	if ref.port == "" || ref.port == port {
		h.proxy(w, r, t, &url.URL{Scheme: "https", Host: kubelet}, h.kubelet)
		return nil
	}
	h.proxy(w, r, t, &url.URL{Scheme: ref.scheme, Host: net.JoinHostPort(host, ref.port)}, h.pods)
	return nil
}

// proxyService serves services/proxy: any ready pod behind the service.
func (h *Handler) proxyService(w http.ResponseWriter, r *http.Request, t Target) error {
	ref, err := parse("service", t.Name)
	if err != nil {
		return err
	}
	obj, err := h.cluster.Get(r.Context(), h.cluster.Resource("", "services"), t.Namespace, ref.name)
	if err != nil {
		return err
	}
	port, err := portName(obj.(*corev1.Service), ref)
	if err != nil {
		return err
	}
	endpoints, err := reach.Ready(r.Context(), h.cluster, t.Namespace, ref.name, port)
	if err != nil {
		return err
	}
	for len(endpoints) > 0 {
		i := rand.IntN(len(endpoints))
		if h.isPod(r.Context(), t, endpoints[i]) {
			h.proxy(w, r, t, &url.URL{Scheme: ref.scheme, Host: endpoints[i].Address()}, h.pods)
			return nil
		}
		endpoints = slices.Delete(endpoints, i, i+1)
	}
	return apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", t.Name))
}

// portName is the name of the service port a reference means by name or number.
func portName(s *corev1.Service, ref reference) (string, error) {
	number, err := strconv.Atoi(ref.port)
	if err != nil {
		return ref.port, nil
	}
	for _, p := range s.Spec.Ports {
		if int(p.Port) == number {
			return p.Name, nil
		}
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %d found for service %q", number, ref.name))
}

// isPod reports whether an endpoint is what it says: the proxy must not lead
// to any address somebody writes into a slice.
func (h *Handler) isPod(ctx context.Context, t Target, e reach.Endpoint) bool {
	if e.Target == nil || e.Target.Kind != "Pod" || e.Target.Namespace != t.Namespace {
		return false
	}
	pod, err := h.pod(ctx, t, e.Target.Name)
	if err != nil {
		slog.Debug("endpoint has no pod", "service", t.Namespace+"/"+t.Name, "pod", e.Target.Name, "error", err)
		return false
	}
	return slices.ContainsFunc(pod.Status.PodIPs, func(ip corev1.PodIP) bool { return ip.IP == e.IP })
}
