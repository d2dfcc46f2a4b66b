package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/backend/engines"
	"github.com/skiff-k8s/skiff/apiserver/encryption"
	"github.com/skiff-k8s/skiff/cluster/keypair"
	"github.com/skiff-k8s/skiff/family"
)

func apiserverCommand() *cobra.Command {
	var options apiserver.Options
	var storage, certFile, keyFile, clientCAFile, tokenKeyFile, kubeletCertFile, kubeletKeyFile, proxyCAFile, proxyCertFile, proxyKeyFile string
	listen := netip.MustParseAddrPort("0.0.0.0:6443")
	advertise := netip.MustParseAddr("127.0.0.1")
	options.ServiceCIDRs = family.MustParse("10.96.0.0/16")
	cmd := &cobra.Command{
		Use:   "apiserver",
		Short: "Run the API server alone",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if options.Log, err = logTo("-", slog.LevelInfo); err != nil {
				return err
			}
			serving, err := keypair.Open(certFile, keyFile)
			if err != nil {
				return err
			}
			for _, shown := range []struct {
				to        *func(*tls.CertificateRequestInfo) (*tls.Certificate, error)
				cert, key string
			}{{&options.KubeletClient, kubeletCertFile, kubeletKeyFile}, {&options.FrontProxyClient, proxyCertFile, proxyKeyFile}} {
				if shown.cert == "" {
					continue
				}
				file, err := keypair.Open(shown.cert, shown.key)
				if err != nil {
					return err
				}
				*shown.to = file.Show
			}
			files := map[*[]byte]string{&options.ClientCA: clientCAFile, &options.ServiceAccountKey: tokenKeyFile}
			if proxyCAFile != "" {
				files[&options.FrontProxyCA] = proxyCAFile
			}
			for to, name := range files {
				if *to, err = os.ReadFile(name); err != nil {
					return err
				}
			}
			if options.Backend, err = engines.Open(storage); err != nil {
				return err
			}
			listener, err := net.Listen("tcp", listen.String())
			if err != nil {
				return errors.Join(err, options.Backend.Close())
			}
			options.Advertise = netip.AddrPortFrom(advertise, listen.Port())
			server, err := apiserver.Standard(cmd.Context(), options)
			if err != nil {
				return errors.Join(err, listener.Close(), options.Backend.Close())
			}
			fmt.Fprintln(cmd.OutOrStdout(), "serving on", listen)
			err = server.Serve(cmd.Context(), listener, &tls.Config{GetCertificate: serving.Serve, ClientAuth: tls.RequestClientCert})
			server.Close()
			return errors.Join(err, options.Backend.Close())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&storage, "storage", "file:///var/lib/skiff/skiff.db", storageUsage)
	flags.TextVar(&listen, "listen", listen, "address of the API")
	flags.TextVar(&advertise, "advertise-address", advertise, "where pods and other machines reach the API")
	flags.StringVar(&certFile, "tls-cert-file", "", "certificate of the API")
	flags.StringVar(&keyFile, "tls-private-key-file", "", "its key")
	flags.StringVar(&clientCAFile, "client-ca-file", "", "authority of the certificates that clients show")
	flags.StringVar(&tokenKeyFile, "service-account-signing-key-file", "", "key that signs service account tokens")
	flags.StringVar(&options.Issuer, "service-account-issuer", "https://kubernetes.default.svc.cluster.local", "issuer of service account tokens")
	flags.StringVar(&kubeletCertFile, "kubelet-client-certificate", "", "certificate to show to kubelets")
	flags.StringVar(&kubeletKeyFile, "kubelet-client-key", "", "its key")
	flags.StringVar(&proxyCAFile, "requestheader-client-ca-file", "", "authority of proxies that say on whose behalf they ask; none if empty")
	flags.StringSliceVar(&options.FrontProxyNames, "requestheader-allowed-names", nil, "names such proxies may have; any if empty")
	flags.StringVar(&proxyCertFile, "proxy-client-cert-file", "", "certificate to show to extension servers")
	flags.StringVar(&proxyKeyFile, "proxy-client-key-file", "", "its key")
	flags.TextVar(&options.ServiceCIDRs, "service-cluster-ip-range", options.ServiceCIDRs, "range of Service addresses, or one of each IP family, the primary one first")
	encryptionFlags(flags, &options.Encryption)
	for _, name := range []string{"tls-cert-file", "tls-private-key-file", "client-ca-file", "service-account-signing-key-file"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // the flag is not defined above
		}
	}
	return cmd
}

// encryptionFlags are those of kube-apiserver.
func encryptionFlags(flags *pflag.FlagSet, c *encryption.Config) {
	flags.StringVar(&c.File, "encryption-provider-config", "", "EncryptionConfiguration: how objects are encrypted in the storage; they are not if empty")
	flags.BoolVar(&c.Reload, "encryption-provider-config-automatic-reload", false, "take new versions of that file while running")
}
