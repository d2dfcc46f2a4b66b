package certificates

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net"
	"net/url"
	"slices"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// asked describes a request.
type asked struct {
	signer  string
	request x509.CertificateRequest
	usages  []certificatesv1.KeyUsage
	seconds int32
	user    string
	rights  []string
	status  []certificatesv1.CertificateSigningRequestCondition
	key     func(*testing.T) crypto.Signer
	text    func(der []byte) string // of the request; its PEM
	by      string                  // the authority; lasting
}

const (
	client  = "kubernetes.io/kube-apiserver-client"
	kubelet = "kubernetes.io/kube-apiserver-client-kubelet"
	serving = "kubernetes.io/kubelet-serving"
	legacy  = "kubernetes.io/legacy-unknown"
)

var (
	signature  = certificatesv1.UsageDigitalSignature
	encipher   = certificatesv1.UsageKeyEncipherment
	clientAuth = certificatesv1.UsageClientAuth
	serverAuth = certificatesv1.UsageServerAuth
)

func usages(u ...certificatesv1.KeyUsage) []certificatesv1.KeyUsage { return u }

func name(cn string, groups ...string) pkix.Name {
	return pkix.Name{CommonName: cn, Organization: groups}
}

func node() pkix.Name { return name("system:node:n1", "system:nodes") }

func condition(kind certificatesv1.RequestConditionType, status corev1.ConditionStatus) certificatesv1.CertificateSigningRequestCondition {
	return certificatesv1.CertificateSigningRequestCondition{Type: kind, Status: status, Reason: "Test", Message: "by hand"}
}

func conditions(c ...certificatesv1.CertificateSigningRequestCondition) []certificatesv1.CertificateSigningRequestCondition {
	return c
}

var (
	approved = condition(certificatesv1.CertificateApproved, corev1.ConditionTrue)
	denied   = condition(certificatesv1.CertificateDenied, corev1.ConditionTrue)
	failed   = condition(certificatesv1.CertificateFailed, corev1.ConditionTrue)
)

func ellipticKey(t *testing.T) crypto.Signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func rsaKey(t *testing.T) crypto.Signer {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func edwardsKey(t *testing.T) crypto.Signer {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// wrong is a request whose signature is not its key's.
func wrong(der []byte) string {
	der[len(der)-1] ^= 1
	return block("CERTIFICATE REQUEST", der)
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// authorityWanted asks for a certificate that signs others.
var authorityWanted = []pkix.Extension{
	{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: must(asn1.Marshal(struct{ IsCA bool }{true}))},
	{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Value: []byte{5, 0}},
}

// requests are all cases.
func requests(t *testing.T) (all []request) {
	add := func(title string, a asked) {
		all = append(all, a.object(t, title))
	}
	ok := conditions(approved)
	// What people ask for.
	forClient := func(change func(*asked)) asked {
		a := asked{signer: client, request: x509.CertificateRequest{Subject: name("me", "a", "b")}, usages: usages(clientAuth), status: ok}
		change(&a)
		return a
	}
	add("client", forClient(func(*asked) {}))
	add("client, not approved", forClient(func(a *asked) { a.status = nil }))
	add("client, not approved, with the rights of kubelets", forClient(func(a *asked) { a.status = nil; a.rights = []string{"nodeclient", "selfnodeclient"} }))
	add("client, denied", forClient(func(a *asked) { a.status = conditions(denied) }))
	add("client, approved and denied", forClient(func(a *asked) { a.status = conditions(approved, denied) }))
	add("client, failed", forClient(func(a *asked) { a.status = conditions(approved, failed) }))
	add("client, failed without saying so", forClient(func(a *asked) { a.status = conditions(approved, condition(certificatesv1.CertificateFailed, "")) }))
	add("client, not failed", forClient(func(a *asked) {
		a.status = conditions(approved, condition(certificatesv1.CertificateFailed, corev1.ConditionFalse))
	}))
	add("client, approved to be false", forClient(func(a *asked) {
		a.status = conditions(condition(certificatesv1.CertificateApproved, corev1.ConditionFalse))
	}))
	add("client with all usages", forClient(func(a *asked) { a.usages = usages(signature, encipher, clientAuth) }))
	add("client with a usage twice", forClient(func(a *asked) { a.usages = usages(clientAuth, signature, clientAuth) }))
	add("client without its usage", forClient(func(a *asked) { a.usages = usages(signature, encipher) }))
	add("client without any usage", forClient(func(a *asked) { a.usages = nil }))
	add("client that serves", forClient(func(a *asked) { a.usages = usages(clientAuth, serverAuth) }))
	add("client that signs", forClient(func(a *asked) { a.usages = usages(clientAuth, certificatesv1.UsageCertSign) }))
	add("client by another name of a usage", forClient(func(a *asked) { a.usages = usages(clientAuth, certificatesv1.UsageSigning) }))
	add("client with names", forClient(func(a *asked) {
		a.request.DNSNames, a.request.EmailAddresses = []string{"a.example.com", "b"}, []string{"a@example.com"}
		a.request.IPAddresses, a.request.URIs = []net.IP{{10, 0, 0, 1}, net.ParseIP("fd00::1")}, []*url.URL{{Scheme: "spiffe", Host: "x", Path: "/y"}}
	}))
	add("client that would be an authority", forClient(func(a *asked) { a.request.ExtraExtensions = authorityWanted }))
	add("client without a name", forClient(func(a *asked) { a.request.Subject = pkix.Name{} }))
	add("client with a long subject", forClient(func(a *asked) {
		a.request.Subject = pkix.Name{Country: []string{"DE"}, Organization: []string{"z", "a"}, OrganizationalUnit: []string{"u"}, Locality: []string{"l"}, CommonName: "ü, =x"}
	}))
	add("client with RSA", forClient(func(a *asked) { a.key = rsaKey }))
	add("client with Ed25519", forClient(func(a *asked) { a.key = edwardsKey }))
	for title, seconds := range map[string]int32{
		"ten minutes": 600, "less than ten minutes": 599, "an hour": 3600, "less than eight hours": 28799, "eight hours": 28800,
		"a year": 365 * 86400, "more than a year": 365*86400 + 1, "less than nothing": -1,
	} {
		add("client for "+title, forClient(func(a *asked) { a.seconds = seconds }))
	}
	add("client with a wrong signature", forClient(func(a *asked) { a.text = wrong }))
	add("nonsense", forClient(func(a *asked) { a.text = func([]byte) string { return "nonsense" } }))
	add("nonsense in a block", forClient(func(a *asked) {
		a.text = func([]byte) string { return block("CERTIFICATE REQUEST", []byte("nonsense")) }
	}))
	add("a block of another type", forClient(func(a *asked) { a.text = func(der []byte) string { return block("NEW CERTIFICATE REQUEST", der) } }))
	add("client of an authority that ends soon", forClient(func(a *asked) { a.by = "ending" }))
	add("client for an hour of an authority that ends soon", forClient(func(a *asked) { a.by, a.seconds = "ending", 3600 }))
	add("client of an authority that has ended", forClient(func(a *asked) { a.by = "ended" }))

	// What kubelets ask for themselves.
	forKubelet := func(change func(*asked)) asked {
		a := asked{signer: kubelet, request: x509.CertificateRequest{Subject: node()}, usages: usages(signature, clientAuth), status: ok}
		change(&a)
		return a
	}
	for title, change := range map[string]func(*asked){
		"":                     func(*asked) {},
		" that enciphers":      func(a *asked) { a.usages = usages(signature, encipher, clientAuth) },
		" with a usage twice":  func(a *asked) { a.usages = usages(clientAuth, signature, clientAuth) },
		" without signatures":  func(a *asked) { a.usages = usages(clientAuth) },
		" that serves":         func(a *asked) { a.usages = usages(signature, encipher, serverAuth) },
		" that serves too":     func(a *asked) { a.usages = usages(signature, encipher, clientAuth, serverAuth) },
		" of no group":         func(a *asked) { a.request.Subject = name("system:node:n1") },
		" of another group":    func(a *asked) { a.request.Subject = name("system:node:n1", "system:masters") },
		" of two groups":       func(a *asked) { a.request.Subject = name("system:node:n1", "system:nodes", "system:masters") },
		" of a group twice":    func(a *asked) { a.request.Subject = name("system:node:n1", "system:nodes", "system:nodes") },
		" of another name":     func(a *asked) { a.request.Subject = name("n1", "system:nodes") },
		" of no name":          func(a *asked) { a.request.Subject = name("", "system:nodes") },
		" of an empty name":    func(a *asked) { a.request.Subject = name("system:node:", "system:nodes") },
		" with a DNS name":     func(a *asked) { a.request.DNSNames = []string{"n1"} },
		" with an address":     func(a *asked) { a.request.IPAddresses = []net.IP{{10, 0, 0, 1}} },
		" with a mail address": func(a *asked) { a.request.EmailAddresses = []string{"a@example.com"} },
		" with a URI":          func(a *asked) { a.request.URIs = []*url.URL{{Scheme: "spiffe", Host: "x"}} },
		" with all that it may not": func(a *asked) {
			a.request.DNSNames, a.request.EmailAddresses, a.request.Subject = []string{"n1"}, []string{"a@b.c"}, name("n1", "system:nodes")
		},
		" for an hour":                  func(a *asked) { a.seconds = 3600 },
		" of an authority that is over": func(a *asked) { a.by = "ended" },
	} {
		add("kubelet"+title, forKubelet(change))
		add("kubelet"+title+", not approved", forKubelet(func(a *asked) { change(a); a.status, a.rights = nil, []string{"selfnodeclient", "nodeclient"} }))
	}
	for title, rights := range map[string][]string{"no right": nil, "rights to itself": {"selfnodeclient"}, "rights to nodes": {"nodeclient"}, "both": {"selfnodeclient", "nodeclient"}} {
		add("itself with "+title, forKubelet(func(a *asked) { a.status, a.rights = nil, rights }))
		add("another with "+title, forKubelet(func(a *asked) { a.status, a.rights, a.user = nil, rights, "system:bootstrap:abcdef" }))
		add("itself, denied, with "+title, forKubelet(func(a *asked) { a.status, a.rights = conditions(denied), rights }))
		add("itself, failed, with "+title, forKubelet(func(a *asked) { a.status, a.rights = conditions(failed), rights }))
	}
	add("kubelet, nonsense", forKubelet(func(a *asked) {
		a.status, a.rights, a.text = nil, []string{"nodeclient"}, func([]byte) string { return "nonsense" }
	}))
	add("kubelet with a wrong signature, not approved", forKubelet(func(a *asked) { a.status, a.rights, a.text = nil, []string{"nodeclient"}, wrong }))

	// What kubelets ask for their APIs.
	forServing := func(change func(*asked)) asked {
		a := asked{
			signer: serving, usages: usages(signature, serverAuth), status: ok,
			request: x509.CertificateRequest{Subject: node(), DNSNames: []string{"n1"}, IPAddresses: []net.IP{{10, 0, 0, 1}}},
		}
		change(&a)
		return a
	}
	for title, change := range map[string]func(*asked){
		"":                          func(*asked) {},
		", not approved":            func(a *asked) { a.status, a.rights = nil, []string{"selfnodeclient", "nodeclient"} },
		" that enciphers":           func(a *asked) { a.usages, a.key = usages(signature, encipher, serverAuth), rsaKey },
		" without signatures":       func(a *asked) { a.usages = usages(serverAuth) },
		" that is a client":         func(a *asked) { a.usages = usages(signature, clientAuth) },
		" that is a client too":     func(a *asked) { a.usages = usages(signature, serverAuth, clientAuth) },
		" by addresses alone":       func(a *asked) { a.request.DNSNames = nil },
		" by names alone":           func(a *asked) { a.request.IPAddresses = nil },
		" by nothing":               func(a *asked) { a.request.DNSNames, a.request.IPAddresses = nil, nil },
		" with a mail address":      func(a *asked) { a.request.EmailAddresses = []string{"a@example.com"} },
		" with a URI":               func(a *asked) { a.request.URIs = []*url.URL{{Scheme: "spiffe", Host: "x"}} },
		" of another group":         func(a *asked) { a.request.Subject = name("system:node:n1", "nodes") },
		" of another name":          func(a *asked) { a.request.Subject = name("n1", "system:nodes") },
		" of another name and use":  func(a *asked) { a.request.Subject, a.usages = name("n1", "system:nodes"), usages(clientAuth) },
		" of somebody else's names": func(a *asked) { a.request.DNSNames = []string{"kubernetes.default", "n2"} },
		" for somebody else":        func(a *asked) { a.user = "mallory" },
	} {
		add("serving"+title, forServing(change))
	}

	// What was asked for before there were signers.
	for title, u := range map[string][]certificatesv1.KeyUsage{
		"all there is": usages(certificatesv1.UsageSigning, signature, certificatesv1.UsageContentCommitment, encipher, certificatesv1.UsageKeyAgreement,
			certificatesv1.UsageDataEncipherment, certificatesv1.UsageCertSign, certificatesv1.UsageCRLSign, certificatesv1.UsageEncipherOnly,
			certificatesv1.UsageDecipherOnly, certificatesv1.UsageAny, serverAuth, clientAuth, certificatesv1.UsageCodeSigning,
			certificatesv1.UsageEmailProtection, certificatesv1.UsageSMIME, certificatesv1.UsageIPsecEndSystem, certificatesv1.UsageIPsecTunnel,
			certificatesv1.UsageIPsecUser, certificatesv1.UsageTimestamping, certificatesv1.UsageOCSPSigning, certificatesv1.UsageMicrosoftSGC, certificatesv1.UsageNetscapeSGC),
		"nothing":            nil,
		"an unknown usage":   usages(serverAuth, "brewing coffee"),
		"serving and asking": usages(serverAuth, clientAuth),
	} {
		add("legacy for "+title, asked{signer: legacy, request: x509.CertificateRequest{Subject: name("me", "system:masters"), DNSNames: []string{"x"}}, usages: u, status: ok})
	}
	add("legacy, not approved", asked{signer: legacy, request: x509.CertificateRequest{Subject: node()}, usages: usages(signature, clientAuth), rights: []string{"selfnodeclient", "nodeclient"}})

	// What others sign.
	for _, signer := range []string{"example.com/own", "kubernetes.io/unknown", "kubernetes.io/kube-apiserver-client-pod"} {
		add(signer, asked{signer: signer, request: x509.CertificateRequest{Subject: node()}, usages: usages(signature, clientAuth), status: ok})
		add(signer+", not approved", asked{signer: signer, request: x509.CertificateRequest{Subject: node()}, usages: usages(signature, clientAuth), rights: []string{"selfnodeclient", "nodeclient"}})
	}
	slices.SortStableFunc(all, func(a, b request) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

func (a asked) object(t *testing.T, title string) request {
	t.Helper()
	key := ellipticKey
	if a.key != nil {
		key = a.key
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &a.request, key(t))
	if err != nil {
		t.Fatalf("%s: %v", title, err)
	}
	text := block("CERTIFICATE REQUEST", der)
	if a.text != nil {
		text = a.text(der)
	}
	user := a.request.Subject.CommonName
	if a.user != "" {
		user = a.user
	}
	by := "lasting"
	if a.by != "" {
		by = a.by
	}
	csr := &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: title},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: []byte(text), SignerName: a.signer, Usages: a.usages,
			Username: user, UID: title, Groups: []string{"system:authenticated"}, Extra: map[string]certificatesv1.ExtraValue{"example.com/x": {"1", "2"}},
		},
		Status: certificatesv1.CertificateSigningRequestStatus{Conditions: a.status},
	}
	if a.seconds != 0 {
		csr.Spec.ExpirationSeconds = &a.seconds
	}
	return request{Name: title, Authority: by, Object: csr, Rights: a.rights}
}

// finished are the cases of the cleaner.
func finished(t *testing.T, now time.Time) (all []settled) {
	add := func(title string, made time.Duration, cert []byte, status ...certificatesv1.CertificateSigningRequestCondition) {
		all = append(all, settled{Name: title, Gone: "never", Object: &certificatesv1.CertificateSigningRequest{
			ObjectMeta: metav1.ObjectMeta{Name: title, UID: types.UID(title), ResourceVersion: "1", CreationTimestamp: metav1.NewTime(now.Add(-made))},
			Status:     certificatesv1.CertificateSigningRequestStatus{Conditions: status, Certificate: cert},
		}})
	}
	since := func(c certificatesv1.CertificateSigningRequestCondition, ago time.Duration) certificatesv1.CertificateSigningRequestCondition {
		c.LastUpdateTime = metav1.NewTime(now.Add(-ago))
		return c
	}
	until := func(left time.Duration) []byte { return ending(t, now.Add(left)) }
	const half = 30 * time.Minute
	add("pending", half, nil)
	add("pending since long", 20*time.Hour+half, nil)
	add("pending since too long", 25*time.Hour, nil)
	add("pending without a beginning", 0, nil)
	all[len(all)-1].Object.CreationTimestamp = metav1.Time{}
	add("of another kind", 48*time.Hour, nil, since(condition("Other", corev1.ConditionTrue), 48*time.Hour))
	add("denied", 10*time.Hour, nil, since(denied, half))
	add("denied long ago", 10*time.Hour, nil, since(denied, 2*time.Hour))
	add("denied at no time", 48*time.Hour, nil, denied)
	add("denied in the time to come", half, nil, since(denied, -3*time.Hour-half))
	add("denied to be false", 10*time.Hour, nil, since(condition(certificatesv1.CertificateDenied, corev1.ConditionFalse), half))
	add("failed", 10*time.Hour, nil, since(failed, half))
	add("failed to be false", 10*time.Hour, nil, since(condition(certificatesv1.CertificateFailed, corev1.ConditionFalse), half))
	add("approved", 10*time.Hour, nil, since(approved, half))
	add("approved, and failed", 10*time.Hour, nil, since(approved, 10*time.Hour), since(failed, half))
	add("approved, and denied", 10*time.Hour, nil, since(approved, 22*time.Hour+half), since(denied, -5*time.Hour-half))
	add("approved at no time", 48*time.Hour, nil, approved)
	add("signed", 10*time.Hour, until(1000*time.Hour), since(approved, half))
	add("signed, approved at no time", 48*time.Hour, until(1000*time.Hour), approved)
	add("signed, approved to be false", 10*time.Hour, until(1000*time.Hour), since(condition(certificatesv1.CertificateApproved, corev1.ConditionFalse), half))
	add("signed, not approved", 48*time.Hour, until(1000*time.Hour))
	add("signed, denied", 10*time.Hour, until(1000*time.Hour), since(denied, -4*time.Hour-half))
	add("signed for less than it is kept", 10*time.Hour, until(half), since(approved, -5*time.Hour))
	add("signed, and ended", 10*time.Hour, until(-half), since(approved, -5*time.Hour))
	add("signed, ends, approved at no time", 48*time.Hour, until(7*time.Hour+half), approved)
	add("signed, ends, not approved", 10*time.Hour, until(half), since(failed, -5*time.Hour-half))
	add("signed with nonsense", 10*time.Hour, []byte("nonsense"), since(approved, -2*time.Hour-half))
	add("signed with nonsense in a block", 10*time.Hour, []byte(block("CERTIFICATE", []byte("nonsense"))), since(approved, -2*time.Hour-half))
	add("signed with a chain", 10*time.Hour, append(until(3*time.Hour+half), until(half)...), approved)
	return all
}

// ending is a certificate that ends at a time.
func ending(t *testing.T, end time.Time) []byte {
	key := ellipticKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: end.Add(-time.Hour), NotAfter: end}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return []byte(block("CERTIFICATE", der))
}
