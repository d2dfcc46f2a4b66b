package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
)

// startAPI serves an API in memory, to whoever reaches the loopback of the namespace, as the administrator.
func startAPI(ctx context.Context, kubeconfig string) (kubernetes.Interface, error) {
	ca, key, err := keys()
	if err != nil {
		return nil, err
	}
	server, err := apiserver.Standard(ctx, apiserver.Options{
		Backend: memory.New(), ClientCA: ca, ServiceAccountKey: key, Advertise: netip.MustParseAddrPort("192.0.2.1:6443"), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, err
	}
	transport := server.Transport(&user.DefaultInfo{Name: "bench", Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	target := &url.URL{Scheme: "https", Host: "in-process"}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }, Transport: transport, FlushInterval: -1}
	go func() { _ = http.Serve(l, proxy) }()
	cluster := clientcmdapi.NewConfig()
	cluster.Clusters["bench"] = &clientcmdapi.Cluster{Server: "http://" + l.Addr().String()}
	cluster.Contexts["bench"] = &clientcmdapi.Context{Cluster: "bench"}
	cluster.CurrentContext = "bench"
	if err := clientcmd.WriteToFile(*cluster, kubeconfig); err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(&rest.Config{Host: "https://in-process", Transport: transport, QPS: -1})
}

// keys makes an authority and a key that signs tokens, which nobody uses.
func keys() (ca, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, NotAfter: time.Now().Add(24 * time.Hour), IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

const namespace = "default"

func name(i int) string { return fmt.Sprintf("s-%d", i) }

// clusterIP is the address of a Service. The default range ends after 65,000.
func clusterIP(i int) string { return fmt.Sprintf("10.96.%d.%d", 100+i/250, 1+i%250) }

// fill makes the node and all Services. Three of them have the listener as their endpoint, like those made later.
func (c config) fill(ctx context.Context, client kubernetes.Interface) error {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	if _, err := client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
		return err
	}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}
	if _, err := client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for i := range c.services + 1 {
		endpoints := c.endpoints
		switch i {
		case 0, c.services / 2, c.services - 1:
			endpoints = 1
		case c.services:
			endpoints = 250
		}
		group.Go(func() error { return makeService(ctx, client, i, endpoints) })
	}
	return group.Wait()
}

// makeService makes one with so many endpoints. One alone is the listener.
func makeService(ctx context.Context, client kubernetes.Interface, i, endpoints int) error {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name(i)},
		Spec:       corev1.ServiceSpec{ClusterIP: clusterIP(i), Ports: []corev1.ServicePort{{Name: "http", Port: 80}}},
	}
	if _, err := client.CoreV1().Services(namespace).Create(ctx, s, metav1.CreateOptions{}); err != nil {
		return err
	}
	slices := []*discoveryv1.EndpointSlice{}
	for j := range endpoints {
		if j%100 == 0 {
			slices = append(slices, &discoveryv1.EndpointSlice{
				ObjectMeta:  metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("%s-%d", name(i), j/100), Labels: map[string]string{discoveryv1.LabelServiceName: name(i)}},
				AddressType: discoveryv1.AddressTypeIPv4,
				Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("http"), Port: ptr.To[int32](8080)}},
			})
		}
		last := slices[len(slices)-1]
		e := discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.244.%d.%d", i%250, 1+(i/250+j)%250)}, NodeName: ptr.To("other")}
		if endpoints == 1 {
			e.Addresses = []string{"192.0.2.1"}
		}
		last.Endpoints = append(last.Endpoints, e)
	}
	for _, slice := range slices {
		if _, err := client.DiscoveryV1().EndpointSlices(namespace).Create(ctx, slice, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	return nil
}

func deleteService(ctx context.Context, client kubernetes.Interface, i int) error {
	if err := client.DiscoveryV1().EndpointSlices(namespace).Delete(ctx, name(i)+"-0", metav1.DeleteOptions{}); err != nil {
		return err
	}
	return client.CoreV1().Services(namespace).Delete(ctx, name(i), metav1.DeleteOptions{})
}
