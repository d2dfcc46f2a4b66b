package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strconv"
	"text/tabwriter"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
)

func serviceCommand() *cobra.Command {
	var o operator
	var namespace string
	var onlyURLs bool
	cmd := &cobra.Command{
		Use:   "service NAME",
		Short: "Say where a Service is reached from this machine",
		Args:  cobra.ExactArgs(1),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			names, err := serviceNames(cmd.Context(), &o, namespace)
			if err != nil {
				return nil, cobra.ShellCompDirectiveError
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			client, own, err := o.client()
			if err != nil {
				return err
			}
			found, err := findService(cmd.Context(), client, cmp.Or(namespace, own), args[0])
			if err != nil {
				return err
			}
			return writePlaces(cmd.OutOrStdout(), found, onlyURLs)
		},
	}
	o.flags(cmd.Flags())
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "namespace of the Service (default: that of the kubeconfig's context)")
	cmd.Flags().BoolVar(&onlyURLs, "url", false, "print the URLs alone, a line each")
	return cmd
}

// client is a client of the server, and the namespace that is meant unless another is named.
func (o *operator) client() (kubernetes.Interface, string, error) {
	config, namespace, err := o.config()
	if err != nil {
		return nil, "", err
	}
	client, err := kubernetes.NewForConfig(config)
	return client, namespace, err
}

func serviceNames(ctx context.Context, o *operator, namespace string) ([]string, error) {
	client, own, err := o.client()
	if err != nil {
		return nil, err
	}
	list, err := client.CoreV1().Services(cmp.Or(namespace, own)).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, s := range list.Items {
		names = append(names, s.Name)
	}
	return names, nil
}

// findService reads a Service, what is behind it, and the nodes, and says where it is reached.
func findService(ctx context.Context, client kubernetes.Interface, namespace, name string) ([]place, error) {
	service, err := client.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	endpoints, err := client.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + name})
	if err != nil {
		return nil, err
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	return placesOf(service, endpoints.Items, nodes.Items)
}

// place is where a port of a Service is reached.
type place struct {
	service *corev1.Service
	port    corev1.ServicePort
	url     string
}

// placesOf are the places where a Service is reached from outside the cluster: its load balancer's addresses, else the
// ports of a node.
func placesOf(service *corev1.Service, endpoints []discoveryv1.EndpointSlice, nodes []corev1.Node) ([]place, error) {
	name := service.Namespace + "/" + service.Name
	if service.Spec.Type == corev1.ServiceTypeExternalName {
		return nil, fmt.Errorf("service %s stands for %s, which is not of this cluster", name, service.Spec.ExternalName)
	}
	if !slices.ContainsFunc(endpoints, serves) {
		return nil, fmt.Errorf("service %s has no pod that is ready", name)
	}
	var places []place
	for _, port := range service.Spec.Ports {
		for _, ingress := range service.Status.LoadBalancer.Ingress {
			places = append(places, place{service, port, urlOf(port, cmp.Or(ingress.IP, ingress.Hostname), port.Port)})
		}
		if address := addressOf(nodes); len(service.Status.LoadBalancer.Ingress) == 0 && port.NodePort != 0 && address != "" {
			places = append(places, place{service, port, urlOf(port, address, port.NodePort)})
		}
	}
	if len(places) == 0 {
		return nil, fmt.Errorf("service %s has no node port; try: kubectl port-forward --namespace %s service/%s 8080:%d",
			name, service.Namespace, service.Name, service.Spec.Ports[0].Port)
	}
	return places, nil
}

func serves(s discoveryv1.EndpointSlice) bool {
	return slices.ContainsFunc(s.Endpoints, func(e discoveryv1.Endpoint) bool { return ptr.Deref(e.Conditions.Ready, true) })
}

// addressOf is the address of a node that is ready.
func addressOf(nodes []corev1.Node) string {
	for _, n := range nodes {
		ready := slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		})
		for _, a := range n.Status.Addresses {
			if ready && a.Type == corev1.NodeInternalIP {
				return a.Address
			}
		}
	}
	return ""
}

// urlOf takes a port for one of HTTP unless it says otherwise, as people do who give no protocol.
func urlOf(port corev1.ServicePort, host string, number int32) string {
	scheme := "http"
	switch {
	case port.Protocol == corev1.ProtocolUDP || port.Protocol == corev1.ProtocolSCTP:
		scheme = map[corev1.Protocol]string{corev1.ProtocolUDP: "udp", corev1.ProtocolSCTP: "sctp"}[port.Protocol]
	case ptr.Deref(port.AppProtocol, port.Name) == "https" || port.Port == 443:
		scheme = "https"
	}
	return (&url.URL{Scheme: scheme, Host: net.JoinHostPort(host, strconv.Itoa(int(number)))}).String()
}

func writePlaces(out io.Writer, places []place, onlyURLs bool) error {
	if onlyURLs {
		for _, p := range places {
			if _, err := fmt.Fprintln(out, p.url); err != nil {
				return err
			}
		}
		return nil
	}
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "NAMESPACE\tNAME\tPORT\tURL")
	for _, p := range places {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", p.service.Namespace, p.service.Name, cmp.Or(p.port.Name, strconv.Itoa(int(p.port.Port))), p.url)
	}
	return table.Flush()
}
