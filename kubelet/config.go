// Package kubelet is the node agent: it registers a node, runs the pods bound to it through a CRI v1
// runtime, and serves their logs, streams and statistics. It is a client-go program and knows nothing of
// the API server but its API.
//
// New puts the parts together, each of which is a package of its own: node (registration, status,
// lease), pods (life cycle), runtime (CRI), images, status, env, hooks, logs, evict, and volume, probe,
// resources, stats, server. Pods come from the API alone; static pods from a directory are not supported.
package kubelet

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/kubelet/pods"
)

// Config is all settings of a kubelet. Fields without a default named here are required.
type Config struct {
	NodeName string
	Client   kubernetes.Interface // identity system:node:<NodeName>, group system:nodes

	RuntimeEndpoint string // the CRI socket: a path or unix:// URL
	RootDir         string // "/var/lib/skiff/kubelet"
	LogDir          string // of pods; <RootDir>/pod-logs
	VolumesDir      string // of PersistentVolumes that are made on the node; <RootDir>/local-volumes
	CgroupRoot      string // parent of the pods' control groups, cgroupfs driver; "/"

	NodeIP     netip.Addr
	ExtraIPs   []netip.Addr      // of other families
	Labels     map[string]string // beside those every node has
	Taints     []v1.Taint        // of a node that registers for the first time
	MaxPods    int64             // 110
	Capacity   v1.ResourceList   // overrides what is measured
	Reserved   v1.ResourceList   // not for pods
	ClusterDNS []string          // without it pods have the node's resolver
	Domain     string            // "cluster.local"
	ResolvConf string            // "/etc/resolv.conf"; "-" is none

	// Listener is where the kubelet's API is served; Listen is the address to open if it is nil, ":10250".
	Listener net.Listener
	Listen   string
	// Certificate is the serving certificate, asked for with each connection.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	ClientCA    *x509.CertPool // issuer of client certificates of the kubelet's API

	// Guard is what pods may use of the node.
	Guard Guard

	// Policies enforce network policies; nil if nobody does.
	Policies pods.Policies

	// Metrics are figures of other parts of the node, served with the kubelet's own.
	Metrics []prometheus.Gatherer
	// ImageHigh and ImageLow are the disk usage in percent at which unused images are removed, and down to
	// which; 85 and 80.
	ImageHigh, ImageLow int
	// MinDisk is how much of RootDir's file system is to stay free, in bytes; a tenth of it. With less left the
	// node takes no pods and evicts some.
	MinDisk int64
	// LogMaxSize (bytes, 10 MiB) and LogMaxFiles (5) limit the log of one container.
	LogMaxSize  int64
	LogMaxFiles int
}

// withDefaults fills what is not set and says what is missing.
func (c Config) withDefaults() (Config, error) {
	var missing []error
	require := func(set bool, name string) {
		if !set {
			missing = append(missing, errors.New("kubelet: "+name+" is not set"))
		}
	}
	require(c.NodeName != "", "NodeName")
	require(c.Client != nil, "Client")
	require(c.RuntimeEndpoint != "", "RuntimeEndpoint")
	require(c.NodeIP.IsValid(), "NodeIP")

	c.RootDir = cmp.Or(c.RootDir, "/var/lib/skiff/kubelet")
	c.LogDir = cmp.Or(c.LogDir, filepath.Join(c.RootDir, "pod-logs"))
	c.VolumesDir = cmp.Or(c.VolumesDir, filepath.Join(c.RootDir, "local-volumes"))
	c.CgroupRoot = cmp.Or(c.CgroupRoot, "/")
	c.MaxPods = cmp.Or(c.MaxPods, 110)
	c.Domain = cmp.Or(c.Domain, "cluster.local")
	c.Listen = cmp.Or(c.Listen, ":10250")
	switch c.ResolvConf {
	case "":
		c.ResolvConf = "/etc/resolv.conf"
	case "-":
		c.ResolvConf = ""
	}
	return c, errors.Join(append(missing, c.Guard.Validate())...)
}

// ips are the node's addresses as text.
func (c Config) ips() []string {
	all := []string{c.NodeIP.String()}
	for _, ip := range c.ExtraIPs {
		all = append(all, ip.String())
	}
	return all
}

// published is the configuration as /configz shows it, in the terms of the upstream kubelet.
func (c Config) published() kubeletconfig.KubeletConfiguration {
	minDisk := "10%"
	if c.MinDisk > 0 {
		minDisk = resource.NewQuantity(c.MinDisk, resource.BinarySI).String()
	}
	second := func(n int) metav1.Duration { return metav1.Duration{Duration: time.Duration(n) * time.Second} }
	return kubeletconfig.KubeletConfiguration{
		TypeMeta:                     metav1.TypeMeta{APIVersion: "kubelet.config.k8s.io/v1beta1", Kind: "KubeletConfiguration"},
		Address:                      c.NodeIP.String(),
		Port:                         listenPort(c.Listener),
		ClusterDNS:                   c.ClusterDNS,
		ClusterDomain:                c.Domain,
		ResolverConfig:               &c.ResolvConf,
		ContainerRuntimeEndpoint:     c.RuntimeEndpoint,
		CgroupRoot:                   c.CgroupRoot,
		CgroupDriver:                 "cgroupfs",
		CPUManagerPolicy:             "none",
		MemoryManagerPolicy:          "None",
		TopologyManagerPolicy:        "none",
		MaxPods:                      int32(c.MaxPods),
		NodeStatusUpdateFrequency:    second(10),
		NodeStatusReportFrequency:    second(300),
		NodeLeaseDurationSeconds:     40,
		SyncFrequency:                second(60),
		SerializeImagePulls:          ptr.To(false),
		ImageGCHighThresholdPercent:  ptr.To(int32(cmp.Or(c.ImageHigh, 85))),
		ImageGCLowThresholdPercent:   ptr.To(int32(cmp.Or(c.ImageLow, 80))),
		ContainerLogMaxFiles:         ptr.To(int32(cmp.Or(c.LogMaxFiles, 5))),
		EvictionHard:                 map[string]string{"memory.available": "100Mi", "nodefs.available": minDisk, "nodefs.inodesFree": "5%"},
		EnableDebuggingHandlers:      ptr.To(true),
		EnableControllerAttachDetach: ptr.To(true),
		FailSwapOn:                   ptr.To(false),
		EnforceNodeAllocatable:       []string{},
		PodLogsDir:                   c.LogDir,
		MakeIPTablesUtilChains:       ptr.To(false),
		ProtectKernelDefaults:        false,
		VolumeStatsAggPeriod:         second(60),
		RegisterNode:                 ptr.To(true),
		AllowedUnsafeSysctls:         c.Guard.AllowedUnsafeSysctls,

		ImagePullCredentialsVerificationPolicy: cmp.Or(c.Guard.verification().Policy, kubeletconfig.NeverVerifyPreloadedImages),
		PreloadedImagesVerificationAllowlist:   c.Guard.PreloadedImagesVerificationAllowlist,
	}
}
