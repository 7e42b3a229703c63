package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
)

// setTLS builds Etcd.TLS of the files that there are. Each one is looked at, whatever is wrong with the others.
func (d *draft) setTLS(l *layers, r *report, f files) {
	if f.unread {
		return
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	bad := func(key string, err error) bool {
		if err != nil {
			r.addErr(key, l.source[key], err)
		}
		return err != nil
	}
	if d.etcd.caFile != "" {
		if _, certs, err := f.certificates(d.etcd.caFile); !bad("etcd.ca_file", err) {
			c.RootCAs = x509.NewCertPool()
			for _, cert := range certs {
				c.RootCAs.AddCert(cert)
			}
		}
	}
	var cert, key []byte
	var err error
	if d.etcd.certFile != "" {
		cert, _, err = f.certificates(d.etcd.certFile)
		bad("etcd.cert_file", err)
	}
	if d.etcd.keyFile != "" {
		key, err = readRegular(f.path(d.etcd.keyFile), private, maxFile)
		bad("etcd.key_file", err)
	}
	if cert != nil && key != nil {
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			err = &problem{fmt.Sprintf("%s does not go with etcd.cert_file: %s", f.path(d.etcd.keyFile), strings.TrimPrefix(err.Error(), "tls: ")), ""}
		}
		if !bad("etcd.key_file", err) {
			c.Certificates = []tls.Certificate{pair}
		}
	}
	if slices.ContainsFunc(d.etcd.endpoints, func(e located[string]) bool { return isTLS(e.value) }) {
		d.Etcd.TLS = c
	}
}

// certificates reads a PEM file with at least one certificate, as it is and parsed.
func (f files) certificates(name string) ([]byte, []*x509.Certificate, error) {
	path := f.path(name)
	data, err := readRegular(path, anybody, maxFile)
	if err != nil {
		return nil, nil, err
	}
	var certs []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, nil, &problem{fmt.Sprintf("%s: certificate %d: %s", path, len(certs)+1, strings.TrimPrefix(err.Error(), "x509: ")), ""}
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, nil, &problem{path + " does not hold a certificate", "in PEM: -----BEGIN CERTIFICATE-----"}
	}
	return data, certs, nil
}
