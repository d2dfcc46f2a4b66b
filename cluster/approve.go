package cluster

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/netip"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// approveServing approves what the kubelets of this cluster ask for their APIs. The controllers cannot: they do not know
// which names and addresses are whose. This package has given them.
func (r *run) approveServing(ctx context.Context, members []member) error {
	client, err := kubernetes.NewForConfig(r.plane.config(adminUser))
	if err != nil {
		return err
	}
	requests := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("spec.signerName", certificatesv1.KubeletServingSignerName).String()
	})).Certificates().V1().CertificateSigningRequests()
	return reconcile.Controller{
		Name:  "ServingApprover",
		Watch: []reconcile.Source{reconcile.Own(requests.Informer()), reconcile.Self(requests.Informer())},
		Sync: func(ctx context.Context, key reconcile.Key) (time.Duration, error) {
			csr, err := requests.Lister().Get(key.Name)
			if err != nil {
				return 0, reconcile.IgnoreNotFound(err)
			}
			if len(csr.Status.Conditions) > 0 || !slices.ContainsFunc(members, func(m member) bool { return m.asks(csr) }) {
				return 0, nil
			}
			csr = csr.DeepCopy()
			csr.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{
				Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "AutoApproved",
				Message: "Auto approving kubelet serving certificate for the name and the address of its node.",
			}}
			_, err = client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, csr.Name, csr, metav1.UpdateOptions{})
			return 0, reconcile.IgnoreNotFound(err)
		},
	}.Run(ctx)
}

// asks reports whether a request is the node's own, for nothing but its name and addresses.
func (m member) asks(csr *certificatesv1.CertificateSigningRequest) bool {
	self := nodeUser(m.Name)
	block, _ := pem.Decode(csr.Spec.Request)
	if csr.Spec.Username != self.user || csr.Spec.SignerName != certificatesv1.KubeletServingSignerName || block == nil {
		return false
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	return err == nil && request.Subject.CommonName == self.user && slices.Equal(request.Subject.Organization, self.groups) &&
		len(request.URIs) == 0 && len(request.EmailAddresses) == 0 &&
		!slices.ContainsFunc(request.DNSNames, func(name string) bool { return name != m.Name }) &&
		!slices.ContainsFunc(request.IPAddresses, func(ip net.IP) bool { return !m.has(ip) })
}

func (m member) has(ip net.IP) bool {
	return slices.ContainsFunc(m.Addresses, func(a netip.Addr) bool { return ip.Equal(a.AsSlice()) })
}
